"""The environment manager: specs, locks, builds, fingerprints, parity, verification."""

from scalems.env.check import Depth

# Not when first used: the module of that name would come to stand where the function is.
from scalems.env.verify import Build, VerifiedResource, verify

__all__ = ["Build", "Depth", "VerifiedResource", "verify"]
