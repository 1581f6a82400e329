"""JupyterLab as ``make lab`` starts it: it opens the clone, and saves tracked notebooks without outputs.

Edits of cells are saved. A notebook that git does not track, such as a copy, keeps its outputs.
"""

import subprocess
from typing import Any

import nbformat
from nbconvert.preprocessors import ClearMetadataPreprocessor, ClearOutputPreprocessor

KEPT = {"preserve_nb_metadata_mask": {"kernelspec", ("language_info", "name")}, "preserve_cell_metadata_mask": {"tags"}}


def without_outputs(model: dict[str, Any], path: str, contents_manager: Any) -> None:
    """Strip a notebook that is about to be saved of outputs, and of metadata that running it changes."""
    tracked = ["git", "ls-files", "--error-unmatch", path]
    if (
        model["type"] == "notebook"
        and path.startswith("notebooks/")
        and subprocess.run(tracked, cwd=contents_manager.root_dir, capture_output=True).returncode == 0
    ):
        notebook = nbformat.from_dict(model["content"])
        for strip in (ClearOutputPreprocessor(), ClearMetadataPreprocessor(**KEPT)):
            notebook, _ = strip.preprocess(notebook, {})
        model["content"] = notebook


c = get_config()  # type: ignore[name-defined] # noqa: F821
c.ContentsManager.pre_save_hook = without_outputs
c.LabApp.default_url = "/lab/tree/notebooks"
