//! Where a face looks fake, for a past verdict: made when somebody asks, one at a time.

use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use image::ImageFormat;

use super::evidence::Look;
use crate::bundle::Bundle;
use crate::classify::Explainer;
use crate::engine::{self, Engine, KernelSet};
use crate::report::heat;

/// Memory for the calls of a thread that loads a network and runs it.
const STACK: usize = 2 << 20;

/// The network that makes maps, and the SHA-256 of its file.
enum Network {
    Unloaded,
    Loaded(String, Box<Explainer>),
    Failed(String),
}

/// Makes heat maps with the model that judges now.
pub(super) struct Painter {
    bundle: Arc<Mutex<Bundle>>,
    kernels: KernelSet,
    network: Mutex<Network>,
}

/// Why there is no map.
#[derive(Debug)]
pub(super) enum NoMap {
    /// Another one is being made.
    Busy,
    /// This network gives none.
    Never,
}

impl Painter {
    /// Loads nothing before the first map.
    pub(super) fn new(bundle: Arc<Mutex<Bundle>>, kernels: KernelSet) -> Self {
        Painter { bundle, kernels, network: Mutex::new(Network::Unloaded) }
    }

    /// `look` beside the map of it, as PNG.
    pub(super) fn paint(&self, look: &Look) -> Result<Vec<u8>, NoMap> {
        // Those who are served have too small a stack for a network.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("dashboard-heat".into()).stack_size(STACK);
            let painting = thread.spawn_scoped(scope, || self.paint_here(look));
            let painting = painting.map_err(|error| {
                log::warn!("heat map: {error}");
                NoMap::Busy
            })?;
            painting.join().unwrap_or(Err(NoMap::Never))
        })
    }

    fn paint_here(&self, look: &Look) -> Result<Vec<u8>, NoMap> {
        let mut network = match self.network.try_lock() {
            Ok(network) => network,
            // Whoever panicked left `Failed` behind.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(NoMap::Busy),
        };
        let crop = image::load_from_memory(&look.png).map_err(|_| NoMap::Never)?.to_rgb8();
        let mut explainer = self.explainer(&mut network, &look.model)?;
        let map = explainer.heat_map(&crop);
        *network = Network::Loaded(look.model.clone(), explainer);
        drop(network);
        let map = map.map_err(|error| {
            log::warn!("heat map: {error}");
            NoMap::Never
        })?;
        let mut bytes = Vec::new();
        let panel = heat::panel(&crop, &map, &look.caption);
        panel.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).map_err(|_| NoMap::Never)?;
        Ok(bytes)
    }

    /// Takes the network `sha256`, if it is that of the model that judges now; until it is put back, it counts as failed.
    fn explainer(&self, network: &mut Network, sha256: &str) -> Result<Box<Explainer>, NoMap> {
        let bundle = self.bundle.lock().unwrap_or_else(PoisonError::into_inner);
        if bundle.manifest().model.sha256 != sha256 {
            return Err(NoMap::Never);
        }
        match std::mem::replace(network, Network::Failed(sha256.to_owned())) {
            Network::Loaded(of, explainer) if of == sha256 => Ok(explainer),
            Network::Failed(of) if of == sha256 => Err(NoMap::Never),
            _ => {
                // Loading takes its time, and the watching thread may want the bundle.
                let own = bundle.clone();
                drop(bundle);
                load(&own, self.kernels).map(Box::new).ok_or(NoMap::Never)
            }
        }
    }
}

/// One thread of its own, so that it never waits for the team that watches, nor the team for it.
fn load(bundle: &Bundle, kernels: KernelSet) -> Option<Explainer> {
    let engine = Engine::new(&engine::Settings { threads: 1, kernels });
    let explainer = engine.and_then(|engine| Explainer::of(&engine, bundle));
    explainer.map_err(|error| log::warn!("heat map: {error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbImage;

    #[test]
    fn a_crop_that_fails_costs_no_other_its_map() {
        let bundle = Bundle::embedded().unwrap();
        let (side_px, sha256) = (bundle.manifest().input.size_px, bundle.manifest().model.sha256.clone());
        let painter = Painter::new(Arc::new(Mutex::new(bundle)), KernelSet::Auto);
        let paint = |side_px: u32, model: &str| {
            let mut png = Vec::new();
            let crop = RgbImage::from_pixel(side_px, side_px, image::Rgb([120, 90, 60]));
            crop.write_to(&mut Cursor::new(&mut png), ImageFormat::Png).unwrap();
            painter.paint(&Look { png: Arc::new(png), caption: "x".into(), model: model.into(), map: None })
        };
        let first = paint(side_px, &sha256).unwrap();
        // The network refuses another size, and another model has none here.
        assert!(matches!(paint(side_px / 2, &sha256), Err(NoMap::Never)));
        assert!(matches!(paint(side_px, "another"), Err(NoMap::Never)));
        assert_eq!(paint(side_px, &sha256).unwrap(), first);
    }
}
