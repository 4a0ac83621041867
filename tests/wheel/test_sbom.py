"""The bill of materials of an image names all that is installed in it."""

import json
from pathlib import Path

from tests.cluster import environment, network, sbom


def test_every_pinned_package_of_an_image_is_listed_with_its_version(tmp_path: Path) -> None:
    with network.outside():  # where packages come from
        written = sbom.write(tmp_path)
    for path in written:
        bill = json.loads(path.read_text())
        image = path.name.split(".")[0].removeprefix("aweigh-")
        pins = environment.PINS[image].read_text().splitlines()
        pinned = {tuple(line.split(" ;")[0].strip().split("==")) for line in pins if "==" in line}
        listed = {(each["name"], each["version"]) for each in bill["components"]}
        assert bill["bomFormat"] == "CycloneDX"
        assert bill["metadata"]["component"]["name"] == "aweigh"
        assert {(name.split("[")[0], version) for name, version in pinned} == listed
        assert len(pinned) > 10
