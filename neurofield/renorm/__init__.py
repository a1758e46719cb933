"""Diffusion-guided renormalization: graphs from activity, communities, scales, coarse-graining."""

from neurofield._flow import Flow as Flow

from .diffusion._heat_kernel import heat_kernel as heat_kernel
from .diffusion._laplacian import laplacian as laplacian
from .diffusion._scales import Scales as Scales
from .diffusion._scales import diffusion_scales as diffusion_scales
from .diffusion._thermodynamics import Thermodynamics as Thermodynamics
from .diffusion._thermodynamics import thermodynamics as thermodynamics
from .diffusion._weights import diffusion_weights as diffusion_weights
