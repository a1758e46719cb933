"""Diffusion-guided renormalization: graphs from activity, communities, scales, coarse-graining."""

from neurofield._flow import Flow as Flow

from .diffusion._aggregate import aggregate as aggregate
from .diffusion._aggregate import soft_assignment as soft_assignment
from .diffusion._coarse_grain import CoarseGraph as CoarseGraph
from .diffusion._coarse_grain import coarse_grain as coarse_grain
from .diffusion._correlation import CorrelationStatistics as CorrelationStatistics
from .diffusion._correlation import lagged_correlation as lagged_correlation
from .diffusion._heat_kernel import heat_kernel as heat_kernel
from .diffusion._infer import InferredGraph as InferredGraph
from .diffusion._infer import infer_graph as infer_graph
from .diffusion._laplacian import laplacian as laplacian
from .diffusion._linear import partial_correlation as partial_correlation
from .diffusion._linear import var_graph as var_graph
from .diffusion._linear import whitened_graph as whitened_graph
from .diffusion._phenomenological import phenomenological_flow as phenomenological_flow
from .diffusion._phenomenological_pairs import sum_units as sum_units
from .diffusion._scales import Scales as Scales
from .diffusion._scales import diffusion_scales as diffusion_scales
from .diffusion._thermodynamics import Thermodynamics as Thermodynamics
from .diffusion._thermodynamics import thermodynamics as thermodynamics
from .diffusion._weights import diffusion_weights as diffusion_weights
