"""What tests of training share."""

from small_data import built, data, teacher

__all__ = ['built', 'data', 'teacher']
