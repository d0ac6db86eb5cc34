"""Constants of nature and of the LISA constellation, in SI units unless the name says otherwise.

The orbit is the analytic one of the mock data challenges: three spacecraft at equal arm length on
a circle that cartwheels along a circular heliocentric orbit (Rubbo, Cornish & Poujade 2004,
arXiv gr-qc/0311069), to first order in the eccentricity.
"""

from __future__ import annotations

import math

LIGHT_SPEED = 299_792_458.0
"""m/s."""
ASTRONOMICAL_UNIT = 149_597_870_700.0
"""m."""
AU_SECONDS = ASTRONOMICAL_UNIT / LIGHT_SPEED
"""Light travel time over one astronomical unit, s."""
YEAR = 31_558_149.763545600
"""Sidereal year, s."""
ORBITAL_FREQUENCY = 2.0 * math.pi / YEAR
"""Angular frequency of the constellation about the Sun, rad/s."""
ARM_LENGTH = 2.5e9
"""m."""
ARM_SECONDS = ARM_LENGTH / LIGHT_SPEED
"""Light travel time along one arm, s."""
TILT = math.pi / 3.0
"""Angle between the constellation's normal and the ecliptic pole, rad."""
SOLAR_MASS_SECONDS = 4.925490947641267e-6
"""G Msun / c^3 from the nominal solar mass parameter (IAU 2015 Resolution B3), s."""
MEGAPARSEC_SECONDS = 3.085677581491367e22 / LIGHT_SPEED
"""Light travel time over one megaparsec, s."""
EULER_GAMMA = 0.577215664901532860606512090082402431
