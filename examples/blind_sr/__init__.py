"""Blind super-resolution, the study that proves paramattr: which filters deblur, which denoise."""
