"""Ship the notebooks and params files with the package, so that an installed ``glore`` works without a clone."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("notebooks/*.ipynb", "notebooks/appendix/*.ipynb", "params/*.yaml")


class BuildWithNotebooks(build_py):
    """Copy them into ``glore_lib/shipped`` of what is built; an editable installation uses the clone's."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if not self.editable_mode:
            for path in sorted(found for pattern in SHIPPED for found in Path().glob(pattern)):
                target = Path(self.build_lib, "glore_lib", "shipped", path)
                self.mkpath(str(target.parent))
                self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": BuildWithNotebooks})
