"""Data folders of checked images: DIR/{train,val}.{rec,idx,json}. Packed from a source, verified, checked when a run starts.

Training reads records that are known to be sound: every image is decoded to its end when it is packed, and once more on a
machine that has not seen these very files before.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
from contextlib import closing
from typing import List, NamedTuple, Optional, Sequence, Union

from gluon_bot import InputError, RunError
from gluon_bot.console import Progress, counted, say
from gluon_bot.data.records import ilsvrc, im2rec, images, layout, names, sources, verify
from gluon_bot.data.records.layout import Listing
from gluon_bot.data.records.manifest import MOST_CLASSES, SPLITS, Manifest
from gluon_bot.data.records.process_pool import TASK_BYTES, ordered, spans, unless_few
from gluon_bot.data.records.sources import Item
from gluon_bot.data.records.verify import summary
from gluon_bot.data.records.writer import SplitWriter, publish, writing_into
from gluon_bot.files import atomic_write, raise_if_away, read_bounded, size_text

VALIDATION_SHARE = 0.1


class Packing(NamedTuple):
    """How images become records."""

    resize: Optional[int]  # the short side, in pixels, to which larger images are scaled down
    quality: int  # of their JPEGs then
    seed: int  # of the order
    workers: Optional[int]  # processes; None for one a core
    skip_broken: bool  # leave out, and list, what cannot be decoded


def pack(source: str, out: str, *, name: Optional[str] = None, resize: Optional[int] = None, quality: int = 95,
         seed: int = 0, workers: Optional[int] = None, skip_broken: bool = False, check_md5: bool = True,
         validation_share: Optional[float] = None, class_names: Optional[str] = None) -> List[Manifest]:
    """Pack the images of `source` into records in folder `out`, in a random order given by `seed`.

    `source` is a folder or uncompressed tar with train/CLASS/IMAGE and val/CLASS/IMAGE, or with CLASS/IMAGE, of which
    `validation_share` is packed for validation (a tenth, if None); or a folder with the three ILSVRC2012 archives; or
    records of MXNet's im2rec, whose classes a list or folder `class_names` may name. An image whose short side is
    above `resize` pixels is scaled down to it, as a JPEG of `quality`. Returns the manifests.
    Raises InputError for the first image that cannot be decoded, unless `skip_broken` leaves it out and lists it.
    """
    packing = Packing(resize, quality, seed, workers, skip_broken)
    share = VALIDATION_SHARE if validation_share is None else validation_share
    _check_options(packing, share)
    with writing_into(out):
        if ilsvrc.is_ilsvrc(source):
            listing = ilsvrc.list_ilsvrc(source, check_md5)
        elif im2rec.is_im2rec(source):
            listing = im2rec.list_im2rec(source, class_names, share, seed)
        elif class_names is not None:
            raise InputError("%s: --classes is for records of MXNet's im2rec; here, folders name the classes" % source)
        else:
            listing = layout.list_source(source, share, seed)
        if validation_share is not None and not listing.shared_out:
            train = os.path.join(source, 'train')
            alone = 'val' not in listing.splits and os.path.isdir(train)
            raise InputError('%s: has its own train or val images, so none are drawn: %s' % (
                source, 'give %s itself' % train if alone else 'leave --validation-share out'))
        if len(listing.classes) > MOST_CLASSES:
            raise InputError('%s: has %d classes, records hold %d at most' % (source, len(listing.classes), MOST_CLASSES))
        _check_space(out, listing, resize)
        naming, kept = _names(source, listing), os.path.join(out, names.FILE)
        if naming and os.path.lexists(kept) and not _holds(kept, naming):
            raise InputError("%s: would be replaced by the source's; move it away" % kept)
        if not naming and os.path.lexists(kept):
            say('%s: is there already, and names the classes; remove it where it is of other images' % kept)
        finished = []
        for split in sorted(listing.splits, key=SPLITS.index, reverse=True):  # the small one first: it fails sooner
            writer = SplitWriter(out, split, listing.classes)
            _pack_split(writer, source, listing.splits[split], packing)
            _check_classes(writer, source, listing)
            finished.append(writer.finish(name or listing.name, os.path.basename(os.path.abspath(source)), resize, quality,
                                          seed))
        if naming:
            with atomic_write(os.path.join(out, names.FILE), 'wb') as file:
                file.write(naming)
        publish(out, finished)
    for each in finished:
        verify.remember(each)
        say(summary(each))
    verify.say_missing(out)
    return finished


def _holds(path: str, data: bytes) -> bool:
    try:
        return read_bounded(path, len(data)) == data
    except OSError:
        return False


def _names(source: str, listing: Listing) -> bytes:
    """The source's names.txt, which goes with the records; nothing for none. InputError where it is no such list."""
    if listing.names is None:
        return b''
    path = '%s: %s' % (source, listing.names.name)
    try:
        data = sources.read(listing.names)
    except (OSError, ValueError) as error:
        raise InputError('%s: cannot be read: %s' % (path, getattr(error, 'strerror', None) or error)) from None
    known = names.parse(data, path)
    missing = [name for name in listing.classes if name not in known]
    say('%s: names %d of %s' % (path, len(listing.classes) - len(missing), counted(len(listing.classes), 'class')))
    return data


def _pack_split(writer: SplitWriter, source: str, items: Sequence[Item], packing: Packing) -> None:
    items = sorted(items, key=lambda item: (layout.composed(item.name), item.offset))
    random.Random('%d %s' % (packing.seed, writer.split)).shuffle(items)
    progress = Progress(len(items), 'pack ' + writer.split, plain_seconds=30)
    done = 0
    try:
        tasks = (items[begin:end] for begin, end in spans(item.size for item in items))
        pack_items = functools.partial(_pack_items, packing.resize, packing.quality)
        few = sum(item.size for item in items) <= TASK_BYTES
        with closing(ordered(pack_items, tasks, unless_few(packing.workers, few))) as answers:
            for answer in answers:
                for image in answer:
                    if isinstance(image, images.Packed):
                        writer.add(items[done].label, image)
                    elif packing.skip_broken:
                        writer.leave_out(items[done].name, image)
                    else:
                        raise InputError('%s: %s: %s; repair or remove it, or pack with --skip-broken'
                                         % (source, items[done].name, image))
                    done += 1
                progress.update(done, '%d left out' % len(writer.left_out) if writer.left_out else '')
    finally:
        progress.close()


def _check_classes(writer: SplitWriter, source: str, listing: Listing) -> None:
    """Say which classes have lost all their images, as broken ones; InputError where that leaves none to train on."""
    listed = {item.label for item in listing.splits[writer.split]}
    lost = [name for label, name in enumerate(listing.classes) if label in listed and not writer.images_per_class[label]]
    if lost:
        told = '%s: all %s images of %s are broken: %s' % (source, writer.split, counted(len(lost), 'class'),
                                                          layout.shown(lost))
        if writer.split == 'train':
            raise InputError(told + '; repair or remove them')
        say(told)


def _pack_items(resize: Optional[int], quality: int, items: Sequence[Item]) -> List[Union[images.Packed, str]]:
    """In a worker process: each image as packed, or the reason why not."""
    answers: List[Union[images.Packed, str]] = []
    for item in items:
        try:
            answers.append(images.packed(sources.read(item), resize, quality))
        except (OSError, ValueError) as error:
            raise_if_away(error, item.file)
            answers.append(getattr(error, 'strerror', None) or str(error))
    return answers


def _check_options(packing: Packing, validation_share: float) -> None:
    resize, quality, seed, workers, _ = packing
    for good, said in (
            (resize is None or 16 <= resize <= 4096, '--resize %s: a short side of 16 to 4096 pixels' % resize),
            (1 <= quality <= 100, '--quality %s: between 1 and 100' % quality),
            (0 <= seed < 1 << 31, '--seed %s: between 0 and 2147483647' % seed),
            (workers is None or 1 <= workers <= 1024, '--workers %s: between 1 and 1024' % workers),
            (0 <= validation_share < 1, '--validation-share %s: at least 0 and below 1' % validation_share)):
        if not good:
            raise InputError(said)


def _check_space(out: str, listing: Listing, resize: Optional[int]) -> None:
    """Raise RunError now, not in an hour, where images that keep their size, as JPEGs do, cannot all fit on the disk."""
    needed = sum(max(item.size, 0) for items in listing.splits.values() for item in items
                 if item.file.endswith(sources.RECORDS) or item.name.lower().endswith(layout.JPEG_EXTENSIONS))
    free = shutil.disk_usage(out).free
    if resize is None and needed > free:
        raise RunError('%s: the images need %s, the disk has %s free' % (out, size_text(needed), size_text(free)))
