"""The two models that every peer serves: ``datatypes`` and ``scores``, which give their inputs back."""

TYPES = (
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
)
# By model: the endings of its tensors' names with their datatypes, and the length of a row.
MODELS = {"datatypes": ([(f"_{name}", name) for name in TYPES], 2), "scores": ([("", "FP32")], 4)}


def tensors(model, prefix):
    pairs, length = MODELS[model]
    return [{"name": prefix + ending, "datatype": name, "shape": [-1, length]} for ending, name in pairs]
