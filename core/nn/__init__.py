"""Neural-network modules, with PyTorch's names."""

from . import functional as functional
from . import init as init
from . import utils as utils
from .activation import *
from .adaptive import *
from .attention import *
from .batchnorm import *
from .container import *
from .conv import *
from .distance import *
from .dropout import *
from .embedding import *
from .flatten import *
from .fold import *
from .instancenorm import *
from .linear import *
from .loss import *
from .module import *
from .normalization import *
from .pad import *
from .pool import *
from .rnn import *
from .transformer import *
from .upsample import *
