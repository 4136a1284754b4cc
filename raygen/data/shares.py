"""The shares of the splits where neither the images nor the user say anything else.

The options' defaults are read from here, so this file loads nothing.
"""

CELEBA_TRAIN_SHARE = 0.8
"""The usual share of training images of CelebA: the first 80 % of the files in name order."""
CELEBA_TEST_SHARE = 0.1
"""Share of test images of CelebA: the second half of those that do not train."""
VALIDATION_SHARE = TEST_SHARE = 0.05
"""Shares of validation and test images of datasets without a usual split."""
