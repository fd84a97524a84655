"""What an evaluation leaves: the schema of results.json, and the files of a run."""

from jaxrobust.results.schema import Results as Results
from jaxrobust.results.typed import as_json as as_json
from jaxrobust.results.typed import read as read
