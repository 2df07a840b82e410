"""Results: arrays in an npz with everything needed to trust them in a JSON sidecar, and the claims of the figures."""

from jacspec._ground.files import ResultError as ResultError
from jacspec.results.claims import Claim as Claim
from jacspec.results.claims import claims_of as claims_of
from jacspec.results.claims import claims_table as claims_table
from jacspec.results.claims import write_claims as write_claims
from jacspec.results.store import code_hash as code_hash
from jacspec.results.store import environment as environment
from jacspec.results.store import load as load
from jacspec.results.store import save as save
from jacspec.results.store import staleness as staleness
