//! `trainer-bridge`: what turns labelled videos into a bundle that candor runs. No step of it is built yet.

use clap::Parser;

/// Will train, measure, quantize, pack and flash the classifiers that candor runs.
///
/// No command exists yet: this program does nothing but print this text. Planned, in this order: take
/// face crops from labelled videos with candor's own detector and cropper; augment them; train a
/// classifier; measure it per face, per frame and per video; quantize it to int8; export it as ONNX; pack
/// it as a signed bundle; flash the bundle onto a device.
///
/// Until then `candor` runs its built-in bundle, whose classifier has never been trained, or the one
/// that `candor scan --bundle DIR` names.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {}

fn main() {
    Cli::parse();
}
