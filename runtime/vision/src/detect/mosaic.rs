//! Packs all pyramid levels of a picture into square tiles of one size, so that one P-Net with a
//! fixed input shape serves every resolution in bounded memory.
//!
//! A level larger than a tile is cut into patches that overlap by P-Net's window less its step, so
//! that each window lies whole in exactly one patch. Small patches share a tile. Windows across the
//! border of two patches are never read.

/// P-Net's window, in pixels of a level.
pub(super) const WINDOW_PX: u32 = 12;
/// Distance of neighbouring windows, in pixels of a level.
pub(super) const STEP_PX: u32 = 2;
/// How far neighbouring patches overlap.
const OVERLAP_PX: u32 = WINDOW_PX - STEP_PX;

/// A piece of a pyramid level and its place in a tile. All numbers are even, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    pub(super) level_idx: usize,
    /// Left and top edge in the level.
    pub(super) from: (u32, u32),
    /// Width and height.
    pub(super) size: (u32, u32),
    pub(super) tile_idx: usize,
    /// Left and top edge in the tile.
    pub(super) at: (u32, u32),
}

/// Cuts `levels` (width, height; each even and at least [`WINDOW_PX`]) into patches of at most
/// `tile_px` and gives each a place. Returns them with the number of tiles.
pub(super) fn pack(levels: &[(u32, u32)], tile_px: u32) -> (Vec<Patch>, usize) {
    let mut patches = Vec::new();
    for (level_idx, &(width, height)) in levels.iter().enumerate() {
        for (y, h) in cuts(height, tile_px) {
            for (x, w) in cuts(width, tile_px) {
                patches.push(Patch { level_idx, from: (x, y), size: (w, h), tile_idx: 0, at: (0, 0) });
            }
        }
    }
    // Shelves: highest first, so that a shelf wastes little.
    patches.sort_by_key(|p| std::cmp::Reverse((p.size.1, p.size.0)));
    let mut shelves: Vec<Shelf> = Vec::new();
    let mut used_px: Vec<u32> = Vec::new();
    for patch in &mut patches {
        let fits = |s: &&mut Shelf| s.height >= patch.size.1 && tile_px - s.filled >= patch.size.0;
        let shelf = match shelves.iter_mut().find(fits) {
            Some(shelf) => shelf,
            None => {
                let has_room = |&used: &u32| tile_px - used >= patch.size.1;
                let tile_idx = used_px.iter().position(has_room).unwrap_or_else(|| {
                    used_px.push(0);
                    used_px.len() - 1
                });
                let top = used_px[tile_idx];
                used_px[tile_idx] += patch.size.1;
                shelves.push(Shelf { tile_idx, top, height: patch.size.1, filled: 0 });
                let last = shelves.len() - 1;
                &mut shelves[last]
            }
        };
        patch.tile_idx = shelf.tile_idx;
        patch.at = (shelf.filled, shelf.top);
        shelf.filled += patch.size.0;
    }
    patches.sort_by_key(|p| (p.tile_idx, p.at.1, p.at.0));
    (patches, used_px.len())
}

struct Shelf {
    tile_idx: usize,
    top: u32,
    height: u32,
    filled: u32,
}

/// Starts and lengths that cover a side of `length` px by pieces of at most `tile_px`.
fn cuts(length: u32, tile_px: u32) -> Vec<(u32, u32)> {
    let mut pieces = Vec::new();
    let mut start = 0;
    loop {
        let piece = (length - start).min(tile_px);
        pieces.push((start, piece));
        if start + piece >= length {
            return pieces;
        }
        start += tile_px - OVERLAP_PX;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_window_lies_in_exactly_one_patch(
            sides in prop::collection::vec((6u32..300, 6u32..200), 1..6),
            tile in 16u32..128,
        ) {
            let levels: Vec<_> = sides.iter().map(|&(w, h)| (w * 2, h * 2)).collect();
            let tile_px = tile * 2;
            let (patches, n_tiles) = pack(&levels, tile_px);
            for (level_idx, &(width, height)) in levels.iter().enumerate() {
                let columns = ((width - WINDOW_PX) / STEP_PX + 1) as usize;
                let rows = ((height - WINDOW_PX) / STEP_PX + 1) as usize;
                let mut seen = vec![0u8; columns * rows];
                for p in patches.iter().filter(|p| p.level_idx == level_idx) {
                    prop_assert!(p.tile_idx < n_tiles);
                    prop_assert!(p.at.0 + p.size.0 <= tile_px && p.at.1 + p.size.1 <= tile_px);
                    prop_assert!(p.from.0 + p.size.0 <= width && p.from.1 + p.size.1 <= height);
                    prop_assert!([p.at.0, p.at.1, p.from.0, p.from.1].iter().all(|v| v % 2 == 0));
                    for y in (0..=p.size.1 - WINDOW_PX).step_by(2) {
                        for x in (0..=p.size.0 - WINDOW_PX).step_by(2) {
                            let (column, row) = ((p.from.0 + x) / 2, (p.from.1 + y) / 2);
                            seen[row as usize * columns + column as usize] += 1;
                        }
                    }
                }
                prop_assert!(seen.iter().all(|&n| n == 1));
            }
            for (i, a) in patches.iter().enumerate() {
                for b in &patches[i + 1..] {
                    let apart = a.tile_idx != b.tile_idx
                        || a.at.0 + a.size.0 <= b.at.0 || b.at.0 + b.size.0 <= a.at.0
                        || a.at.1 + a.size.1 <= b.at.1 || b.at.1 + b.size.1 <= a.at.1;
                    prop_assert!(apart, "{a:?} {b:?}");
                }
            }
        }
    }
}
