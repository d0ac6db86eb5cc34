"""Internal-coordinate templates of the 20 residues: lengths in nm, angles in degrees.

Each line places one atom: ``name parent grandparent great length angle torsion``. The torsion is
a number, a free angle (``chi1`` .. ``chi5``), or ``ATOM+120``: the torsion at which ATOM was placed
plus a number. Values are rounded textbook geometry; minimisation with the force field follows, so
only topology, handedness and the absence of clashes matter. The handedness of CB in ILE and THR and
of every CA is fixed by the signs here and checked by ``chirality``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """How one atom follows from three others (NeRF)."""

    name: str
    parent: str
    grandparent: str
    great: str
    length: float
    angle: float
    torsion: str


_HB = "HB2 CB CA N .109 109.5 {x}+120\nHB3 CB CA N .109 109.5 {x}-120"
_METHYL = "{h}1 {c} {b} {a} .109 109.5 180\n{h}2 {c} {b} {a} .109 109.5 60\n"
_METHYL += "{h}3 {c} {b} {a} .109 109.5 -60"
_CH2 = "{h}2 {c} {b} {a} .109 109.5 {x}+120\n{h}3 {c} {b} {a} .109 109.5 {x}-120"


def _hb(x: str) -> str:
    return _HB.format(x=x)


def _methyl(h: str, c: str, b: str, a: str) -> str:
    return _METHYL.format(h=h, c=c, b=b, a=a)


def _ch2(h: str, c: str, b: str, a: str, x: str) -> str:
    return _CH2.format(h=h, c=c, b=b, a=a, x=x)


def _phenyl(para: str) -> str:
    return f"""CG CB CA N .151 113 chi1
        CD1 CG CB CA .140 120 chi2
        HD1 CD1 CG CB .108 120 0
        CE1 CD1 CG CB .140 120 180
        HE1 CE1 CD1 CG .108 120 180
        CZ CE1 CD1 CG .140 120 0
        {para}
        CE2 CD2 CG CB .140 120 180
        HE2 CE2 CD2 CG .108 120 180
        CD2 CG CB CA .140 120 CD1+180
        HD2 CD2 CG CB .108 120 0"""


_LONG = "CG CB CA N .1526 112 chi1\n"

# Order of lines is the order of the atoms in every file and tensor (that of the Amber templates).
_SIDE_CHAINS = {
    "GLY": "",
    "ALA": _methyl("HB", "CB", "CA", "N"),
    "SER": f"{_hb('OG')}\nOG CB CA N .1417 111 chi1\nHG OG CB CA .096 108.5 chi2",
    "CYS": f"{_hb('SG')}\nSG CB CA N .181 113 chi1\nHG SG CB CA .1336 96 chi2",
    "THR": f"""HB CB CA N .109 109 OG1+120
        OG1 CB CA N .1433 109 chi1
        HG1 OG1 CB CA .096 108.5 chi2
        CG2 CB CA N .1526 111 OG1-122
        {_methyl("HG2", "CG2", "CB", "CA")}""",
    "VAL": f"""HB CB CA N .109 108 CG1-119
        CG1 CB CA N .1526 111 chi1
        {_methyl("HG1", "CG1", "CB", "CA")}
        CG2 CB CA N .1526 111 CG1+122
        {_methyl("HG2", "CG2", "CB", "CA")}""",
    "ILE": f"""HB CB CA N .109 108 CG1+119
        CG2 CB CA N .1526 111 CG1-122
        {_methyl("HG2", "CG2", "CB", "CA")}
        CG1 CB CA N .1526 111 chi1
        {_ch2("HG1", "CG1", "CB", "CA", "CD1")}
        CD1 CG1 CB CA .1526 113 chi2
        {_methyl("HD1", "CD1", "CG1", "CB")}""",
    "LEU": f"""{_hb("CG")}
        CG CB CA N .1526 115 chi1
        HG CG CB CA .109 108 CD1-119
        CD1 CG CB CA .1526 111 chi2
        {_methyl("HD1", "CD1", "CG", "CB")}
        CD2 CG CB CA .1526 111 CD1+122
        {_methyl("HD2", "CD2", "CG", "CB")}""",
    "MET": f"""{_hb("CG")}\n{_LONG}{_ch2("HG", "CG", "CB", "CA", "SD")}
        SD CG CB CA .181 113 chi2
        CE SD CG CB .181 100 chi3
        {_methyl("HE", "CE", "SD", "CG")}""",
    "ASP": f"""{_hb("CG")}\n{_LONG}OD1 CG CB CA .125 118 chi2
        OD2 CG CB CA .125 118 OD1+180""",
    "ASN": f"""{_hb("CG")}\n{_LONG}OD1 CG CB CA .123 121 chi2
        ND2 CG CB CA .1335 116 OD1+180
        HD21 ND2 CG CB .101 120 180
        HD22 ND2 CG CB .101 120 0""",
    "GLU": f"""{_hb("CG")}\n{_LONG}{_ch2("HG", "CG", "CB", "CA", "CD")}
        CD CG CB CA .1526 113 chi2
        OE1 CD CG CB .125 118 chi3
        OE2 CD CG CB .125 118 OE1+180""",
    "GLN": f"""{_hb("CG")}\n{_LONG}{_ch2("HG", "CG", "CB", "CA", "CD")}
        CD CG CB CA .1526 113 chi2
        OE1 CD CG CB .123 121 chi3
        NE2 CD CG CB .1335 116 OE1+180
        HE21 NE2 CD CG .101 120 180
        HE22 NE2 CD CG .101 120 0""",
    "LYS": f"""{_hb("CG")}\n{_LONG}{_ch2("HG", "CG", "CB", "CA", "CD")}
        CD CG CB CA .1526 112 chi2
        {_ch2("HD", "CD", "CG", "CB", "CE")}
        CE CD CG CB .1526 112 chi3
        {_ch2("HE", "CE", "CD", "CG", "NZ")}
        NZ CE CD CG .149 112 chi4
        HZ1 NZ CE CD .101 110 180
        HZ2 NZ CE CD .101 110 60
        HZ3 NZ CE CD .101 110 -60""",
    "ARG": f"""{_hb("CG")}\n{_LONG}{_ch2("HG", "CG", "CB", "CA", "CD")}
        CD CG CB CA .1526 112 chi2
        {_ch2("HD", "CD", "CG", "CB", "NE")}
        NE CD CG CB .146 112 chi3
        HE NE CD CG .101 118 CZ+180
        CZ NE CD CG .133 124 chi4
        NH1 CZ NE CD .133 120 0
        HH11 NH1 CZ NE .101 120 0
        HH12 NH1 CZ NE .101 120 180
        NH2 CZ NE CD .133 120 180
        HH21 NH2 CZ NE .101 120 0
        HH22 NH2 CZ NE .101 120 180""",
    "PHE": f"{_hb('CG')}\n{_phenyl('HZ CZ CE1 CD1 .108 120 180')}",
    "TYR": f"{_hb('CG')}\n" + _phenyl("OH CZ CE1 CD1 .136 120 180\nHH OH CZ CE1 .096 110 chi3"),
    "HIS": f"""{_hb("CG")}
        CG CB CA N .150 113 chi1
        ND1 CG CB CA .139 122 chi2
        CE1 ND1 CG CB .132 106 180
        HE1 CE1 ND1 CG .108 125 180
        NE2 CE1 ND1 CG .134 111 0
        HE2 NE2 CE1 ND1 .101 126 180
        CD2 CG CB CA .1365 129 ND1+180
        HD2 CD2 CG CB .108 129 0""",
    "TRP": f"""{_hb("CG")}
        CG CB CA N .150 113 chi1
        CD1 CG CB CA .1365 127 chi2
        HD1 CD1 CG CB .108 125 0
        NE1 CD1 CG CB .1375 110 180
        HE1 NE1 CD1 CG .101 125 180
        CE2 NE1 CD1 CG .137 109 0
        CZ2 CE2 NE1 CD1 .139 130 180
        HZ2 CZ2 CE2 NE1 .108 120 0
        CH2 CZ2 CE2 NE1 .137 118 180
        HH2 CH2 CZ2 CE2 .108 120 180
        CZ3 CE3 CD2 CG .138 119 180
        HZ3 CZ3 CE3 CD2 .108 120 180
        CE3 CD2 CG CB .140 134 0
        HE3 CE3 CD2 CG .108 120 0
        CD2 CG CB CA .144 127 CD1+180""",
    "PRO": f"""{_hb("CG")}
        CG CB CA N .1526 104 30
        HG2 CG CB CA .109 110 80
        HG3 CG CB CA .109 110 -160
        CD N CA C .147 112 phi+180
        HD2 CD N CG .109 110 -120
        HD3 CD N CG .109 110 120""",
}

_RING_BONDS = {
    "PHE": (("CE2", "CZ"),),
    "TYR": (("CE2", "CZ"),),
    "HIS": (("CD2", "NE2"),),
    "TRP": (("CE2", "CD2"), ("CH2", "CZ3")),
    "PRO": (("CG", "CD"),),
}

_CAPS = {
    "ACE": """CH3 C >N >CA .1522 116 180
        HH31 CH3 C >N .109 109.5 180
        HH32 CH3 C >N .109 109.5 60
        HH33 CH3 C >N .109 109.5 -60""",
    "NME": f"CH3 N <C <CA .1458 121.9 180\n{_methyl('HH3', 'CH3', 'N', '<C')}",
}


def _parse(block: str) -> tuple[Placement, ...]:
    rows = [line.split() for line in block.splitlines() if line.strip()]
    return tuple(Placement(*row[:4], float(row[4]), float(row[5]), row[6]) for row in rows)


SIDE_CHAINS: dict[str, tuple[Placement, ...]] = {
    name: _parse(block) for name, block in _SIDE_CHAINS.items()
}
CAPS: dict[str, tuple[Placement, ...]] = {name: _parse(block) for name, block in _CAPS.items()}
RING_BONDS: dict[str, tuple[tuple[str, str], ...]] = _RING_BONDS
