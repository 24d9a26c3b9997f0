"""RP resource definitions: read RP's own, extend, validate, write."""
