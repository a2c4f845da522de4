"""A bare MXNet loop: forward, backward, update. No label smoothing, no metric, no schedule: what MXNet itself takes."""

import gluoncv
import mxnet as mx
import side

options = side.arguments()
if options.precision == 'bfloat16':
    from mxnet.contrib import amp
    amp.init(target_dtype='bfloat16')
network = gluoncv.model_zoo.get_model('resnet50_v1d')
network.initialize(mx.init.Xavier())
network.hybridize(static_alloc=True, static_shape=True)
trainer = mx.gluon.Trainer(network.collect_params(), 'nag', {'learning_rate': 0.01, 'momentum': 0.9, 'wd': 1e-4},
                           kvstore=None)
cross_entropy = mx.gluon.loss.SoftmaxCrossEntropyLoss()
images, labels = mx.nd.random.normal(shape=(options.batch_size, 3, 224, 224)), mx.nd.arange(options.batch_size)


def steps(count: int) -> None:
    for _ in range(count):
        with mx.autograd.record():
            loss = cross_entropy(network(images).astype('float32'), labels)
        loss.backward()
        trainer.step(options.batch_size)
    mx.nd.waitall()


steps(2)
side.serve(lambda: steps(options.steps), options.steps * options.batch_size, lambda: steps(1))
