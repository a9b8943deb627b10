"""Published weights: the formats of their files, and the names and layouts inside.

formats          which format a file has; safetensors, msgpack, directories
torch_files      .pth files, without PyTorch and without running code
tensor_pickles   what may be inside them
state_dicts      our parameter trees to and from the layouts of score_sde, in JAX and PyTorch
score_sde_names  the names of parameters there
diffusers_names  the names of parameters in diffusers
"""
