"""Many networks of torchvision and timm, with random weights: is the layer of Grad-CAM proven, and does the proof hold?

`python -m tests.models.networks [--csv FILE] [NAME ...]` prints the table. `proof` is `all` where nothing goes past the
layer, `patches` where only what the class tokens know goes past it, else why there is none."""
import argparse, gc, time, warnings

import pandas as pd
import torch

from kd_knowledge.core import KDError
from kd_knowledge.models import anatomy, create_model, frozen, taps
from kd_knowledge.probes import grad_cam

TORCHVISION = """AlexNet alexnet, VGG vgg11, ResNet resnet18, ResNeXt resnext50_32x4d, DenseNet densenet121,
GoogLeNet googlenet, Inception_v3 inception_v3, SqueezeNet squeezenet1_1, MobileNet_v2 mobilenet_v2,
MobileNet_v3 mobilenet_v3_small, MNASNet mnasnet0_5, ShuffleNet_v2 shufflenet_v2_x0_5, RegNet regnet_y_400mf,
EfficientNet efficientnet_b0, EfficientNet_v2 efficientnet_v2_s, ConvNeXt convnext_tiny, Swin swin_t, Swin_v2 swin_v2_t,
ViT vit_b_32, MaxViT maxvit_t"""
TIMM = """ResNet-D resnet26d, BiT resnetv2_50x1_bit, NF-ResNet nf_resnet26, NFNet dm_nfnet_f0, Res2Net res2net50_14w_8s,
ResNeSt resnest14d, SKNet skresnet18, RegNet regnetx_002, DLA dla34, DPN dpn48b, HRNet hrnet_w18_small, VoVNet
ese_vovnet19b_dw, CSPNet cspresnet50, RepVGG repvgg_a0, GhostNet ghostnet_050, LCNet lcnet_050, MobileNet_v3
mobilenetv3_small_050, MobileNet_v4 mobilenetv4_conv_small_035, MobileOne mobileone_s0, EfficientNet_v2 efficientnetv2_rw_t,
EfficientNet-Lite efficientnet_lite0, Xception xception41, RexNet rexnet_100, HGNet_v2 hgnetv2_b0, ConvNeXt convnext_atto,
ConvNeXt_v2 convnextv2_atto, ConvMixer convmixer_768_32, InceptionNeXt inception_next_atto, StarNet starnet_s1, RepViT
repvit_m0_9, FocalNet focalnet_tiny_srf, MambaOut mambaout_femto, BoTNet botnet26t_256, LambdaNet lambda_resnet26t,
CoAtNet coatnet_nano_cc_224, MaxViT maxvit_rmlp_pico_rw_256, MobileViT mobilevit_xxs, MobileViT_v2 mobilevitv2_050,
EdgeNeXt edgenext_xx_small, EfficientFormer efficientformer_l1, EfficientFormer_v2 efficientformerv2_s0, EfficientViT
efficientvit_b0, FastViT fastvit_t8, SwiftFormer swiftformer_xs, SHViT shvit_s1, TinyViT tiny_vit_5m_224, PoolFormer
poolformer_s12, CAFormer caformer_s18, LeViT levit_128s, PiT pit_ti_224, PiT-distilled pit_ti_distilled_224, PVT_v2
pvt_v2_b0, Twins twins_svt_small, Visformer visformer_tiny, DaViT davit_tiny, GCViT gcvit_xxtiny, NesT nest_tiny, Swin
swin_tiny_patch4_window7_224, Swin-CR swinv2_cr_tiny_ns_224, ViT vit_tiny_patch16_224, ViT-hybrid vit_tiny_r_s16_p8_224,
ViT-registers vit_little_patch16_reg4_gap_256, DeiT deit_tiny_patch16_224, DeiT-distilled deit_tiny_distilled_patch16_224,
ConViT convit_tiny, BEiT beit_base_patch16_224, EVA-02 eva02_tiny_patch14_224, CaiT cait_xxs24_224, XCiT
xcit_nano_12_p16_224, VOLO volo_d1_224, TNT tnt_s_legacy_patch16_224, CrossViT crossvit_tiny_240, CoaT coat_tiny, Hiera
hiera_tiny_224, MViT_v2 mvitv2_tiny, MLP-Mixer mixer_s32_224, ResMLP resmlp_12_224, gMLP gmlp_ti16_224, Sequencer
sequencer2d_s"""
SIDES = 224, 240, 256, 299  # the first that a network takes is shown to it


def listed(text): return [pair.split() for pair in text.replace('\n', ' ').split(',')]


NETWORKS = [(f, n) for f, n in listed(TORCHVISION)] + [(f, f'timm:{n}') for f, n in listed(TIMM)]


def pictures(side, n=1): return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def side_of(net):
    "The first of the usual sides that a network takes."
    for side in SIDES:
        try:
            with frozen(net), torch.no_grad(): net(pictures(side))
            return side
        except Exception: continue  # whatever its own code raises
    raise ValueError('takes none of the usual sides')


def pixel_gradient(net, x, *cut):
    "The largest gradient of a random mixture of the logits at the pixels, with the graph cut at a layer."
    x = x.clone().requires_grad_()
    with frozen(net), taps(net, *cut, grad=True): z = net(x)
    mixture = (z * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))).sum()
    g = torch.autograd.grad(mixture, x, allow_unused=True)[0] if mixture.requires_grad else None
    return 0. if g is None else g.abs().max().item()


def row(family, name):
    "What is found in a network, and whether it holds."
    options = dict(init_weights=False) if name.startswith('vgg') else {}
    net = create_model(name, 10, seed=0, **options).eval()
    with torch.no_grad(): list(net.parameters())[-2].normal_(std=.1)  # torchvision's ViT starts with a head of zeros
    side = side_of(net)
    start = time.perf_counter()
    found = anatomy(net)
    found_in = time.perf_counter() - start
    about = dict(family=family, network=name, side=side, last_map=found.last_map, seconds=round(found_in, 2))
    try: found.cam
    except KDError: return about | dict(proof=found.unclear.partition('. ')[0])
    x = pictures(side)
    maps, _ = grad_cam(net, x, torch.tensor([3]), found)
    whole, rest = pixel_gradient(net, x), pixel_gradient(net, x, found.cam)
    assert whole > 0 and maps.shape[1] == maps.shape[2] > 1
    return about | dict(proof='patches' if rest else 'all', map=maps.shape[1])


def table(names=(), show=lambda line: None):
    "A row for each network, or for those named."
    rows = []
    for family, name in NETWORKS:
        if names and name not in names: continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            rows.append(row(family, name))
        show('  '.join(f'{k} {v}' for k, v in rows[-1].items()))
        gc.collect()
    columns = 'family network side last_map map proof seconds'.split()
    return pd.DataFrame(rows).reindex(columns=columns).astype({'map': 'Int64'})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', help='as in create_model; none takes all')
    parser.add_argument('--csv', help='where the table is written')
    args = parser.parse_args()
    found = table(args.names, lambda line: print(line, flush=True))
    print(f'{len(found)} networks of {found.family.nunique()} families, {found.last_map.notna().sum()} with a proven map, '
          f'in {found.seconds.sum():.0f} s')
    if args.csv: found.to_csv(args.csv, index=False)


if __name__ == '__main__': main()
