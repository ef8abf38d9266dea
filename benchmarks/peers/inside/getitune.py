"""Trains a timm network with getitune's recipe, or goes on training it, and exports it to OpenVINO, FP32 and INT8."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from exchange import read_request, write_record

request = read_request()
os.environ |= request["settings"]

import polars as pl  # noqa: E402
from datumaro.experimental import Dataset, Sample, export_dataset  # noqa: E402
from datumaro.experimental.categories import LabelCategories  # noqa: E402
from datumaro.experimental.fields import (  # noqa: E402
    ImageInfo,
    Subset,
    image_info_field,
    image_path_field,
    label_field,
    subset_field,
)
from getitune.backend.lightning.engine import LightningEngine  # noqa: E402
from getitune.backend.openvino.engine import OVEngine  # noqa: E402
from getitune.utils.recipes import get_getitune_root_path  # noqa: E402
from PIL import Image  # noqa: E402

SUBSETS = {"train": Subset.TRAINING, "val": Subset.VALIDATION}


class Logo(Sample):
    image: str = image_path_field()
    image_info: ImageInfo = image_info_field()
    label: int = label_field(pl.UInt16())
    subset: Subset = subset_field()


def export_logos(root: Path, labels: list[str], out: Path) -> None:
    """The class folders root/SPLIT/LABEL in Datumaro's format, which getitune reads."""
    dataset = Dataset(Logo, categories={"label": LabelCategories(labels=tuple(labels))})
    for split, subset in SUBSETS.items():
        for path in sorted((root / split).glob("*/*.png")):
            width, height = Image.open(path, formats=("PNG",)).size
            info = ImageInfo(width=width, height=height)
            dataset.append(Logo(image=str(path), image_info=info, label=labels.index(path.parent.name), subset=subset))
    export_dataset(dataset, out)


folder = Path(request["folder"])
data, work = folder / "logos", folder / "getitune"
if not data.exists():
    part = folder / "logos.partial"
    shutil.rmtree(part, ignore_errors=True)
    export_logos(Path(request["data"]), request["labels"], part)
    part.rename(data)
recipe = get_getitune_root_path() / "recipe" / "classification" / "multi_class_cls" / "timm_generic.yaml"
engine = LightningEngine.from_config(
    config_path=recipe,
    data=data,
    work_dir=work,
    device="cpu",
    **{
        "model.model_name": request["network"],
        "model.pretrained_weights": request["weights"],
        "data.input_size": f"[{request['size_px']},{request['size_px']}]",
    },
)
last = max(work.rglob("last*.ckpt"), key=lambda path: path.stat().st_mtime, default=None)
engine.train(max_epochs=request["epochs"], precision="32", seed=0, resume=last is not None, checkpoint=last)
fp32 = engine.export(checkpoint=engine.best_checkpoint)
int8 = OVEngine(data=engine.datamodule, model=fp32, work_dir=work).optimize()
files = []
for name, path in {"fp32": fp32, "optimized": int8}.items():
    for suffix in (".xml", ".bin"):
        files.append(folder / f"{name}{suffix}")
        shutil.copy2(path.with_suffix(suffix), files[-1])
write_record(request, files)
