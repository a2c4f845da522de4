"""What a user of GluonCV would write: its model, loss, LRScheduler and metric, with mixup and label smoothing."""

import gluoncv
import mxnet as mx
import numpy as np
import side
from gluoncv.utils import LRScheduler

CLASSES = 1000
options = side.arguments()
if options.precision == 'bfloat16':
    from mxnet.contrib import amp
    amp.init(target_dtype='bfloat16')
network = gluoncv.model_zoo.get_model('resnet50_v1d', classes=CLASSES, last_gamma=True)
network.initialize(mx.init.MSRAPrelu())
network.hybridize(static_alloc=True, static_shape=True)
schedule = LRScheduler('cosine', base_lr=0.01, nepochs=200, iters_per_epoch=5004)
trainer = mx.gluon.Trainer(network.collect_params(), 'nag', {'wd': 1e-4, 'momentum': 0.9, 'lr_scheduler': schedule})
cross_entropy = mx.gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=False)
metric = mx.metric.RMSE()
images, labels = mx.nd.random.normal(shape=(options.batch_size, 3, 224, 224)), mx.nd.arange(options.batch_size)


def steps(count: int) -> None:
    for _ in range(count):
        weight = np.random.beta(0.2, 0.2)
        one_hot = labels.one_hot(CLASSES) * 0.9 + 0.1 / CLASSES
        mixed, targets = (weight * array + (1 - weight) * array[::-1] for array in (images, one_hot))
        with mx.autograd.record():
            logits = network(mixed).astype('float32')
            loss = cross_entropy(logits, targets)
        loss.backward()
        trainer.step(options.batch_size)
        metric.update([targets], [mx.nd.softmax(logits)])
    mx.nd.waitall()


steps(2)
side.serve(lambda: steps(options.steps), options.steps * options.batch_size, lambda: steps(1))
