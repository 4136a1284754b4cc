"""Write a trained model for other software.

python jobs/export.py runs/vae-celeba --format onnx
"""

import sys
from collections.abc import Sequence

import raygen
from raygen.cli import parse_options, run_job
from raygen.inference.options import ExportOptions


def main(argv: Sequence[str]) -> None:
    options = parse_options(ExportOptions, argv, "Write a trained model for other software.")
    # Import late, because it takes seconds, for which --help and mistakes should not wait.
    from raygen.core.destination import folder_to_write
    from raygen.core.storage import Folder
    from raygen.inference.export import export

    trained = raygen.load(options.run, options.checkpoint)
    out = options.out or Folder.at(options.run).join("export").uri
    folder = folder_to_write("--out", out)
    folder.check_writable()
    names = export(trained, options.format, folder)
    print(f"{trained.config.preset}, step {trained.step:,}: {', '.join(names)} in {folder.uri}")


if __name__ == "__main__":
    sys.exit(run_job(main))
