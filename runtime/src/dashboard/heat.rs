//! Where a face looks fake, for a past verdict: made when somebody asks, one at a time.

use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use image::ImageFormat;

use crate::bundle::Bundle;
use crate::classify::Explainer;
use crate::engine::{self, Engine, KernelSet};
use crate::report::heat;

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

    /// The look in `png` beside the map of it, as PNG.
    pub(super) fn paint(&self, png: &[u8], caption: &str) -> Result<Vec<u8>, NoMap> {
        let mut network = match self.network.try_lock() {
            Ok(network) => network,
            // Whoever panicked left `Failed` behind.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(NoMap::Busy),
        };
        let bundle = self.bundle.lock().unwrap_or_else(PoisonError::into_inner);
        let sha256 = bundle.manifest().model.sha256.clone();
        let mut explainer = match std::mem::replace(&mut *network, Network::Failed(sha256.clone())) {
            Network::Loaded(of, explainer) if of == sha256 => explainer,
            Network::Failed(of) if of == sha256 => return Err(NoMap::Never),
            _ => Box::new(load(&bundle, self.kernels).ok_or(NoMap::Never)?),
        };
        drop(bundle);
        let crop = image::load_from_memory(png).map_err(|_| NoMap::Never)?.to_rgb8();
        let map = explainer.heat_map(&crop).map_err(|error| {
            log::warn!("heat map: {error}");
            NoMap::Never
        })?;
        *network = Network::Loaded(sha256, explainer);
        drop(network);
        let mut bytes = Vec::new();
        let panel = heat::panel(&crop, &map, caption);
        panel.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).map_err(|_| NoMap::Never)?;
        Ok(bytes)
    }
}

/// One thread of its own, so that it never waits for the team that watches, nor the team for it.
fn load(bundle: &Bundle, kernels: KernelSet) -> Option<Explainer> {
    let engine = Engine::new(&engine::Settings { threads: 1, kernels });
    let explainer = engine.and_then(|engine| Explainer::of(&engine, bundle));
    explainer.map_err(|error| log::warn!("heat map: {error}")).ok()
}
