"""Money is a whole number of a currency's smallest unit, with the currency's ISO 4217 code beside it."""

from typing import Annotated

from pydantic import AfterValidator, Field

_CODES = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY
    COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR
    ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK
    MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF
    SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU
    UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""

CURRENCIES = frozenset(_CODES.split())
"""Active national currencies of ISO 4217; funds, metals and test codes are left out."""


def _known(code: str) -> str:
    if code not in CURRENCIES:
        raise ValueError("not the code of a currency in ISO 4217")
    return code


Currency = Annotated[
    str, AfterValidator(_known), Field(examples=["EUR"], json_schema_extra={"enum": [*sorted(CURRENCIES)]})
]
"""A currency's three-letter code, such as EUR."""
