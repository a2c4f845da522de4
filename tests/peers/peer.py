"""Runs in .venv-peers, with PyTorch: logits of timm's and torchvision's networks, from parameters and images in files.

    peer.py FOLDER    reads jobs.json, lists of network, timm's name, arguments, torchvision's name or '', and images

For each network it loads FOLDER/NETWORK/exported as `local-dir:`, writes its logits, and torchvision's with the same
parameters; and it writes random parameters of its own, with random running statistics, and the logits that they give.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

try:
    import torchvision
except RuntimeError:  # built for CUDA, it lacks its compiled operators beside a torch for CPUs; networks use none of them
    library = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
        library.define(name + '(Tensor boxes, Tensor scores, float threshold) -> Tensor')
    for name in [name for name in sys.modules if name.startswith('torchvision')]:
        del sys.modules[name]
    import torchvision

import timm  # noqa: E402

GATES = 0.01  # as in test_parity.py


def randomised(network, generator):
    """Every parameter and running statistic random, so that what an image adds to the logits is not lost on the way."""
    for name, array in network.state_dict().items():
        if array.dim() == 1:
            added = name.endswith(('bias', 'running_mean'))
            array.uniform_(-0.3 if added else 0.8, 0.3 if added else 1.25, generator=generator)
        elif array.dim() == 4:
            array.normal_(0, (2 / array[0].numel()) ** 0.5 * (GATES if '.se.' in name else 1), generator=generator)
    return network


def peer_of(name, classes):
    settings = {'aux_logits': False, 'init_weights': False, 'transform_input': False} if name == 'inception_v3' else {}
    return getattr(torchvision.models, name)(num_classes=classes, **settings)


def main(folder):
    versions = {module.__name__: module.__version__ for module in (torch, torchvision, timm)}
    (folder / 'versions.json').write_text(json.dumps(versions))
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    for name, called, arguments, other in json.loads((folder / 'jobs.json').read_text()):
        place = folder / name
        images, found = load_file(place / 'images.safetensors')['images'], {}
        exported = timm.create_model('local-dir:%s' % (place / 'exported'), pretrained=True).eval()
        assert exported.num_classes == 10 and exported.pretrained_cfg['crop_pct'] == 0.875
        path = str(place / 'exported/model.safetensors')
        by_path = timm.create_model(called, num_classes=10, checkpoint_path=path, **arguments)
        assert all((one == two).all() for one, two in zip(exported.state_dict().values(), by_path.state_dict().values()))
        with torch.inference_mode():
            found['exported'] = exported(images)
            if other:
                twin = peer_of(other, 10)
                twin.load_state_dict(load_file(path), strict=True)
                found['exported-torchvision'] = twin.eval()(images)
            own = randomised(timm.create_model(called, num_classes=10, **arguments), generator).eval()
            (place / 'timm').mkdir()
            save_file(own.state_dict(), place / 'timm/model.safetensors')
            (place / 'timm/config.json').write_text(json.dumps({'architecture': called, 'model_args': arguments}))
            found['timm'] = own(images)
            if other:
                own = randomised(peer_of(other, 10), generator).eval()
                save_file(own.state_dict(), place / 'torchvision.safetensors')
                found['torchvision'] = own(images)
        save_file(found, place / 'logits.safetensors')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
