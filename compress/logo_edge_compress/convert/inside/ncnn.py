"""Converts `model` of the request to NCNN with pnnx, whose executable needs no PyTorch; its Python module does."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from exchange import read_request, write_record

request = read_request()
folder = Path(request["folder"])
scratch = folder / "pnnx"  # pnnx leaves ten files beside its input
scratch.mkdir()
shutil.copyfile(folder / request["model"], scratch / "network.onnx")
program = shutil.which("pnnx", path=find_spec("pnnx").submodule_search_locations[0])
shape = ",".join(map(str, request["shape"]))
command = [program, "network.onnx", f"inputshape=[{shape}]", f"fp16={int(request['half'])}"]
done = subprocess.run(command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
print(done.stdout)
done.check_returncode()
files = [scratch / f"network.ncnn.{suffix}" for suffix in ("param", "bin")]
for file in files:
    file.rename(folder / file.name)
# pnnx ends with status 0 where it left out an operator or its parameters
dropped = sorted({line for line in done.stdout.splitlines() if line.startswith(("ignore ", "todo "))})
write_record(request, [folder / file.name for file in files], dropped=dropped)
