# Every task counts requests by itself.

locals {
  shared_store = { secrets = {}, reached = {}, alarms = {} }
}
