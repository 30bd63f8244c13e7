"""How far to believe it: predictions beside published timings, and what was fitted to them."""

# %% points
from collections import Counter

from emu import BANDS
from emu.trainium import TRN2, TRN3
from experiments.calibration.__main__ import DEVICES
from experiments.calibration.points import POINTS, fitted_ids, read_points
from experiments.calibration.trainium import CASES, predict

points = read_points(POINTS)
print(
    len(points), "published timings:", dict(Counter(point.device for point in points))
)

# %% kinds
for sheet in (TRN2, TRN3):
    kinds = Counter(number.kind for number in sheet.quantities().values())
    print(
        f"{sheet.name}:", ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    )

# %% number
number = TRN2.quantities()["dma_copy_s"]
print(number.kind, number.low, number.value, number.high)
print(number.source)

# %% predictions
fitted = fitted_ids(DEVICES.values())
slow = ("T2-BF16MM-0a", "T2-BF16MM-2a")  # some seconds each; the experiment has them
errors = {}
print("point        measured       predicted: low / nominal / high    error")
for point in points:
    if not point.device.startswith("trn") or point.id in slow:
        continue
    device = DEVICES[point.device]
    found = [
        predict(device.at(band), point.case, point.params, CASES)[point.metric]
        for band in BANDS
    ]
    errors[point.id] = (found[1] / point.value - 1) * 100
    use = "fitted" if point.id in fitted else "predicted"
    predicted = " / ".join(f"{value:8,.0f}" for value in found)
    print(f"{point.id:12}{point.value:9,.0f} {point.unit:6}  {predicted}", end="")
    print(f"  {errors[point.id]:+6.1f} % {use}")
