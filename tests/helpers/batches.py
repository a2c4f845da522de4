"""Batches of a folder of records, by position: its manifest is checked first, as a run does in its setup."""

from gluon_bot.data import classification
from gluon_bot.data.classification import Part
from gluon_bot.data.records import verify


def train_batches(folder, recipe, epoch, rank, size, batch_size, batches, skip=0, limit=None, threads=0):
    part = Part(rank, size, batch_size, limit=limit, threads=threads)
    return classification.train_batches(verify.check(folder, 'train'), recipe, part, epoch=epoch, first=skip, end=batches)


def validation_batches(folder, recipe, rank, size, batch_size, limit=None):
    return classification.validation_batches(verify.check(folder, 'val'), recipe, Part(rank, size, batch_size, limit=limit))
