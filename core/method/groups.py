"""Groups of classes by their number of training images. Imports nothing."""

# Liu et al. 2019 (ImageNet-LT): many > 100, medium 20 to 100, few < 20.
MANY_ABOVE = 100
FEW_BELOW = 20
