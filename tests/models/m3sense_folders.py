"""Miniature folders in the layouts in which data sets are published, for the tests of m3sense."""

import datetime
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

RATES = {"bvp": 64.0, "eda": 4.0, "temp": 4.0}
HZ = {"ACC": 32, "BVP": 64, "EDA": 4, "TEMP": 4, "HR": 1}
T0 = 1586886626


def refuses(message: str, error: type[Exception] = ValueError):
    return pytest.raises(error, match=re.escape(message))


def signal(kind: str, seconds: float, shift: float = 0.0) -> np.ndarray:
    """A plausible channel: its mean grows by `shift`."""
    n = int(seconds * HZ[kind])
    time = np.arange(n) / HZ[kind]
    level = {"BVP": 0.0, "EDA": 0.5, "TEMP": 33.0, "HR": 70.0, "ACC": 0.0}[kind]
    return level + shift + np.sin(2 * np.pi * 0.13 * time + len(kind)) * (30 if kind == "BVP" else 0.1)


# ------------------------------------------------------------------ writers of miniature folders
def write_e4(folder: Path, seconds: float = 60, start: float = T0, decimals: bool = True, sentinel: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, rate in HZ.items():
        values, begin = signal(kind, seconds), start + (10 if kind == "HR" else 0)
        if kind == "EDA":
            values[0] = 0.0
        if kind == "TEMP":
            values[:sentinel] = 382.18
        heads = [f"{begin:.6f}", f"{rate:.6f}"] if decimals else [f"{begin:.0f}", f"{rate}"]
        if kind == "ACC":
            lines = [", ".join([h] * 3) for h in heads] + [f"{k % 64},-5,64" for k in range(len(values))]
        else:
            lines = heads + [f"{v:.6f}" for v in values]
        (folder / f"{kind}.csv").write_text("\n".join(lines) + "\n")
    (folder / "IBI.csv").write_text(f"{start:.6f}, IBI\n14.3,0.8\n15.1,0.9\n20.1,0.7\n")
    (folder / "tags.csv").write_text("")
    return folder


def zipped(folder: Path, inside: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.writestr(zipfile.ZipInfo(inside + file.name), file.read_bytes())  # the name as it is
    return path


def write_wesad(root: Path, person: str = "S2", protocol: int = 2, **changes) -> Path:
    """Six stretches of 20 s: 0, 1, 2, 3, 4, 1."""
    folder = root / "WESAD" / person
    folder.mkdir(parents=True)
    label = np.repeat(np.array([0, 1, 2, 3, 4, 1], np.int32), 20 * 700)
    wrist = {kind: signal(kind, 120)[:, None] for kind in ("BVP", "EDA", "TEMP")}
    wrist["ACC"] = np.zeros((120 * 32, 3))
    content = {"subject": person, "signal": {"chest": {"Temp": np.zeros((70, 1))}, "wrist": wrist}, "label": label}
    content.update(changes)
    (folder / f"{person}.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    return root


def write_quest(path: Path, start: str = "# START;7.08;39.55;70.19", end: str = "# END;26.32;50.3;81.3") -> Path:
    path.write_text(f"# Subj;S2;;;\n# ORDER;Base;TSST;Medi 1;;\n{start};;\n{end};;\n;;;\n# PANAS;1;2;3\n")
    return path


def write_kemocon(root: Path, pid: int = 1, seconds: int = 60, inner: str = "raw/", serials=("A01525",)) -> Path:
    """A debate of the last 40 s of a recording, rated eight times by the person and twice as "x"."""
    start, folder = T0 * 1000, root / f"{inner}e4_data/{pid}"
    folder.mkdir(parents=True)
    for kind in ("BVP", "EDA", "TEMP"):
        values = signal(kind, seconds)
        times = (start + np.arange(len(values)) * 1000 / HZ[kind]).astype(int)
        tables = [
            pd.DataFrame({"timestamp": times, "value": values + 5 * k, "device_serial": s})
            for k, s in enumerate(serials)
        ]
        pd.concat(tables).sort_values("timestamp", kind="stable").to_csv(folder / f"E4_{kind}.csv", index=False)
    notes = root / f"{inner}emotion_annotations/self_annotations"
    notes.mkdir(parents=True, exist_ok=True)
    lines = [f"{5 * k},{3 if k < 5 else 2},{'x' if k in (2, 8) else 4},x" for k in range(1, 9)]
    (notes / f"P{pid}.self.csv").write_text("seconds, arousal ,valence,none_1\n" + "\n".join(lines) + "\n")
    listing = root / "metadata/subjects.csv"
    listing.parent.mkdir(exist_ok=True)
    head = "" if listing.exists() else "pid,initTime,startTime,endTime\n"
    with listing.open("a") as file:
        file.write(f"{head}{pid},{start},{start + 20000},{start + 60000}\n")
    return root


def write_verbio(root: Path, pids=(1, 4), seconds: int = 40) -> Path:
    for pid in pids:
        for session in ("PRE", "POST"):
            folder = root / f"P{pid:03d}" / session
            folder.mkdir(parents=True)
            for kind in ("BVP", "EDA", "TEMP"):
                values = signal(kind, seconds)
                table = pd.DataFrame({"Time (s)": np.arange(len(values)) / HZ[kind], kind: values})
                table.to_excel(folder / f"E4_{kind}_PPT.xlsx", index=False)
    for session, scores in (("PRE", [37, 52]), ("POST", [38, None])):
        (root / session / "Self_Reports").mkdir(parents=True)
        pd.DataFrame({"PID": [f"P{p:03d}" for p in pids], "STAI State Score": scores}).to_excel(
            root / session / "Self_Reports" / f"{session}_afterPPT.xlsx", index=False
        )
    return root


def write_survey(path: Path) -> Path:
    row = lambda name, start, level: [name, start, datetime.time(9, 0), "", pd.Timestamp("2020-04-14"), level, 0]  # noqa: E731
    rows = [row("E4", datetime.time(8, 0), 2), row(15, datetime.time(8, 30), "na"), row(15, datetime.time(8, 0), 0)]
    columns = ["ID", "Start time", "End time", "duration", "date", "Stress level", "COVID related"]
    pd.DataFrame(rows, columns=columns).to_excel(path, index=False)
    return path


ALL_LABELS = "Processed_data/Improved_All_Combined_hr_rsp_binary.csv"


def write_stress_predict(root: Path, layout: str = "all") -> Path:
    """S05 and S12 with 60 s, stress from 30 s on; S01 without labels; in today's layout, or that of former versions."""
    lines = {}
    for subject, start in {"S01": T0, "S05": T0, "S12": T0 + 5000}.items():
        folder = write_e4(root / "Raw_data" / subject, start=start, decimals=False)
        (folder / "tags.csv").rename(folder / f"tags_{subject}.csv")
        if subject != "S01":
            lines[int(subject[1:])] = [(start + k, int(k >= 30)) for k in range(10, 60)]
    folder = root / "Processed_data/heartrate_timestamps_labels"
    folder.mkdir(parents=True)
    if layout == "all":
        rows = [f"{n},70.5,12.1276927,{time},{label}" for n, own in lines.items() for time, label in own]
        (root / ALL_LABELS).write_text("Participant,HR,respr,Time(sec),Label\n" + "\n".join(rows) + "\n")
    else:
        for n, own in lines.items():
            rows = [f"70.0,{time}.0,{label}" for time, label in own]
            (folder / f"P{n}_comb_binary.csv").write_text("HR,Time(sec),Label\n" + "\n".join(rows) + "\n")
    return root
