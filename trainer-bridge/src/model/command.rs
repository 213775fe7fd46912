//! `trainer-bridge weights`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use tch::Device;
use tch::nn::VarStore;

use super::{Backbone, Network, Spec, weights};

/// Say which networks a file of pretrained weights fits.
///
/// Files are .safetensors with the names of timm, torchvision or the efficientnet-pytorch packages, or .pth in PyTorch's
/// format from before 1.6, which is read without running what it contains.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check against this network only, and say what doesn't fit: resnet18, resnet34, b0..b5, lite0..lite4.
    #[arg(long, value_name = "NAME")]
    backbone: Option<Backbone>,
}

/// Runs the command.
///
/// # Errors
/// A file that can't be read, and one that fits no network or not the one that was asked for.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let members = args.backbone.map_or(Backbone::ALL.to_vec(), |member| vec![member]);
    let mut fits = Vec::new();
    for &member in &members {
        let spec = Spec::of(member, member.native_size_px())?;
        let variables = VarStore::new(Device::Cpu);
        let _network = Network::new(&variables.root(), &spec);
        match weights::load_imagenet(&variables, &spec, &args.file) {
            Ok(naming) => fits.push((member, naming)),
            Err(weights::WeightsError::Mismatch { .. }) if members.len() > 1 => {}
            Err(error) => return Err(error.into()),
        }
    }
    let file = args.file.display();
    anyhow::ensure!(
        !fits.is_empty(),
        "{file}: fits none of {}",
        members.iter().map(|m| m.name()).collect::<Vec<_>>().join(", ")
    );
    for (member, naming) in fits {
        println!("{file}: {member}, {} names", naming.word());
    }
    Ok(())
}
