"""GET /v1/audit: what somebody took out of the kernel's sets and maps behind the daemon's back."""

import pytest

import simco_client as simco
from lib import topo
from test_middlebox import CLIENT, SERVER, Box

UNOWNED = ("--test-force-off", "8")  # so that others can change the table


def audit(b):
    found, after = [], 0
    while after is not None:
        body = b.rest.get(f"/v1/audit?after={after}")
        found += body["differences"]
        after = body.get("next")
    return found


def concat(element):
    element = element["elem"]["val"] if "elem" in element else element
    return " . ".join(str(v) for v in element["concat"])


def elements(b):
    """(set or map, key as nft wants it) of everything in the kernel, and the data of maps."""
    found = {}
    for item in b.net.fw.nft_json("list", "table", "inet", "sluice"):
        for kind in ("set", "map"):
            for e in item.get(kind, {}).get("elem", []):
                key, data = e if kind == "map" else (e, None)
                found[item[kind]["name"], concat(key)] = data and concat(data)
    return found


@pytest.mark.san
@pytest.mark.parametrize("mode", ["firewall", "napt", "twice"])
def test_every_element_counts(line, directory, cleanup, mode):
    class Auditing(Box):
        def start(self):
            self.policy["agents"]["agent-1"].update(
                may=["reserve", "enable", "disable"], wildcards=True)
            if mode == "twice":
                self.policy["nat"].update(
                    mode="twice", inside=[{"address": topo.INSIDE, "ports": "20000-20999"}])
            super().start()
    net = line(translated=mode != "firewall")
    b = Auditing(net, directory, cleanup, mode != "firewall", options=UNOWNED)
    c = b.session()
    if mode == "twice":
        reserved = c.prr(nat=simco.TWICE, protocol=simco.UDP, inside=1, outside=1)
        c.pea(reserved.pid, CLIENT, SERVER, lifetime=600)
    for i in range(40):  # several pages
        c.per((topo.CLIENT, 5000 + i), (topo.SERVER, 6000 + i), lifetime=600)
    c.pdr((topo.CLIENT, 7000), SERVER, lifetime=600)
    c.pdr((topo.CLIENT, 7000), ("192.0.2.0/24", 0), lifetime=600)
    assert audit(b) == []
    there = elements(b)
    chosen = {}
    for (name, key), data in there.items():
        chosen.setdefault(name, (key, data))
    assert len(chosen) == {"firewall": 3, "napt": 5, "twice": 7}[mode], chosen
    for name, (key, data) in chosen.items():
        if name.startswith("block_range"):
            continue  # nft writes its key in its own way
        net.fw.run("nft", f"delete element inet sluice {name} {{ {key} }}")
        found = audit(b)
        assert found, f"{key} of {name}"
        assert all("is missing" in f for f in found), found
        if data:
            # in its place another one
            wrong = "10.1.0.99 . 99"
            net.fw.run("nft", f"add element inet sluice {name} {{ {key} timeout 600s : {wrong} }}")
            found = audit(b)
            assert found and all("another address" in f for f in found), found
            net.fw.run("nft", f"delete element inet sluice {name} {{ {key} }}")
            data = " : " + data
        net.fw.run("nft", f"add element inet sluice {name} {{ {key} timeout 610s {data or ''} }}")
        assert audit(b) == []
