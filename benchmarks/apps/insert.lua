-- A new order in each request, under a reference and an Idempotency-Key that no other request has.
-- The argument is a prefix that no other run has.

local prefix
local sent = 0

function init(arguments)
  prefix = arguments[1]
end

function request()
  sent = sent + 1
  local reference = prefix .. "-" .. sent
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Idempotency-Key"] = reference
  return wrk.format("POST", nil, wrk.headers, '{"reference":"' .. reference
    .. '","customer_email":"someone@example.com","currency":"EUR",'
    .. '"items":[{"sku":"chair-1","quantity":2,"unit_price_minor":4950}]}')
end
