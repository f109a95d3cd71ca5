"""The names that a PyTorch script may count on: a name that is lost here would be an AttributeError there."""

from typing import Any

import pytest

import mpigrad
from mpigrad import nn

CREATION = """tensor as_tensor asarray from_numpy zeros ones full empty arange linspace logspace eye zeros_like
    ones_like full_like empty_like rand_like randn_like randint_like rand randn randint randperm bernoulli multinomial
    normal"""
ELEMENTWISE = """add sub mul div pow neg abs sign floor ceil round trunc frac clamp sin cos tan asin acos atan atan2
    sinh cosh tanh asinh acosh atanh exp log expm1 log1p log2 log10 sqrt rsqrt reciprocal erf erfc sigmoid logit lerp
    addcmul addcdiv where maximum minimum fmod remainder nan_to_num logaddexp xlogy heaviside copysign hypot deg2rad
    eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_xor bitwise_not
    isnan isclose allclose equal"""
REDUCTIONS = """sum mean prod std var std_mean var_mean max min median amax amin argmax argmin norm logsumexp cumsum
    cumprod cummax any all count_nonzero aminmax nansum nanmean quantile topk sort argsort kthvalue unique bincount
    histc"""
SHAPE = """reshape flatten unflatten squeeze unsqueeze transpose permute movedim tile roll flip rot90 cat stack split
    chunk tensor_split unbind narrow select gather scatter scatter_add scatter_reduce index_select index_add index_put
    masked_fill masked_select take take_along_dim nonzero diag diagonal tril triu meshgrid broadcast_to
    repeat_interleave"""
PRODUCTS = "matmul mm bmm mv dot outer addmm addmv baddbmm einsum tensordot kron trace"
METHODS = (
    "view reshape expand repeat unfold new_zeros new_ones new_full new_empty new_tensor to type detach_ retain_grad"
)
IN_PLACE = """add_ sub_ mul_ div_ pow_ neg_ abs_ sign_ floor_ ceil_ round_ trunc_ frac_ clamp_ sin_ cos_ tan_ exp_
    log_ sqrt_ rsqrt_ reciprocal_ sigmoid_ tanh_ erf_ lerp_ addcmul_ addcdiv_ fmod_ remainder_ masked_fill_ scatter_
    scatter_add_ index_add_ index_put_ fill_ zero_ copy_ uniform_ normal_ bernoulli_"""
NO_METHODS = {*CREATION.split(), "where", "cat", "stack", "meshgrid", "einsum", "tensordot", "std_mean", "var_mean"}
MODULES = """Linear Bilinear Identity Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d MaxPool1d
    MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
    AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d Unfold Fold Upsample PixelShuffle PixelUnshuffle BatchNorm1d
    BatchNorm2d BatchNorm3d InstanceNorm1d InstanceNorm2d InstanceNorm3d GroupNorm LayerNorm RMSNorm LocalResponseNorm
    Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout Embedding EmbeddingBag MultiheadAttention
    Transformer TransformerEncoder TransformerEncoderLayer TransformerDecoder TransformerDecoderLayer RNN LSTM GRU
    RNNCell LSTMCell GRUCell ModuleList ModuleDict ParameterList ParameterDict Sequential Flatten Unflatten
    CosineSimilarity PairwiseDistance"""
ACTIVATIONS = """ELU Hardshrink Hardsigmoid Hardtanh Hardswish LeakyReLU LogSigmoid PReLU ReLU ReLU6 RReLU SELU CELU
    GELU Sigmoid SiLU Mish Softplus Softshrink Softsign Tanh Tanhshrink Threshold GLU Softmin Softmax Softmax2d
    LogSoftmax AdaptiveLogSoftmaxWithLoss"""
LOSSES = """L1Loss MSELoss CrossEntropyLoss LinearCrossEntropyLoss NLLLoss PoissonNLLLoss GaussianNLLLoss KLDivLoss
    BCELoss BCEWithLogitsLoss MarginRankingLoss HingeEmbeddingLoss MultiLabelMarginLoss HuberLoss SmoothL1Loss
    SoftMarginLoss MultiLabelSoftMarginLoss CosineEmbeddingLoss MultiMarginLoss TripletMarginLoss
    TripletMarginWithDistanceLoss CTCLoss"""
OPTIMIZERS = "SGD Adam AdamW Adamax NAdam RAdam Adagrad Adadelta RMSprop Rprop ASGD LBFGS"
SCHEDULERS = """StepLR MultiStepLR ExponentialLR CosineAnnealingLR CosineAnnealingWarmRestarts OneCycleLR LinearLR
    LambdaLR ReduceLROnPlateau SequentialLR ChainedScheduler LRScheduler _LRScheduler"""
DATA = """Dataset IterableDataset TensorDataset ConcatDataset Subset random_split SequentialSampler RandomSampler
    SubsetRandomSampler WeightedRandomSampler BatchSampler DataLoader get_worker_info default_collate"""
FUNCTIONS = " ".join((CREATION, ELEMENTWISE, REDUCTIONS, SHAPE, PRODUCTS))


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (mpigrad, FUNCTIONS),
        (mpigrad.Tensor, " ".join(sorted({*FUNCTIONS.split()} - NO_METHODS)) + " " + METHODS + " " + IN_PLACE),
        (nn, " ".join((MODULES, ACTIVATIONS, LOSSES))),
        (mpigrad.optim, OPTIMIZERS),
        (mpigrad.optim.lr_scheduler, SCHEDULERS),
        (mpigrad.utils.data, DATA),
        (mpigrad.autograd, "Function backward grad gradcheck detect_anomaly set_detect_anomaly"),
        (nn.utils, "clip_grad_norm_ clip_grad_value_ parameters_to_vector vector_to_parameters weight_norm"),
    ],
    ids=["mpigrad", "Tensor", "nn", "optim", "lr_scheduler", "utils.data", "autograd", "nn.utils"],
)
def test_names_are_there(space: Any, names: str) -> None:
    assert [name for name in names.split() if not hasattr(space, name)] == []


def test_sizes_in_bytes_and_places(same: Any) -> None:
    same(lambda m: [f(m.ones(2, 3, dtype=m.float16)) for f in (lambda t: t.nbytes, lambda t: t.itemsize)])
    same(lambda m: (m.ones(2, 3).get_device(), m.ones(2).is_cpu, m.ones(2, 3).nelement(), m.ones(2, 3).ndimension()))
    same(lambda m: (m.ones(2).is_same_size(m.zeros(2)), m.ones(2).is_same_size(m.zeros(2, 1))))
