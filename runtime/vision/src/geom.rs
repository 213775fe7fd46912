//! Rectangles and points in pixels.
//!
//! The origin is the top-left corner of the upright picture, x grows right, y grows down, and a
//! coordinate names a pixel's edge: the rectangle of a whole W x H picture is `0,0,W,H`.

use serde::{Deserialize, Serialize};

/// A point, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Distance from the left edge.
    pub x: f32,
    /// Distance from the top edge.
    pub y: f32,
}

/// An axis-aligned rectangle, in pixels; may reach outside the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rect {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width, >= 0.
    pub w: f32,
    /// Height, >= 0.
    pub h: f32,
}

impl Rect {
    /// The rectangle between two corners; an inverted one has no area.
    pub fn from_corners(x0: f32, y0: f32, x1: f32, y1: f32) -> Self {
        Rect { x: x0, y: y0, w: (x1 - x0).max(0.0), h: (y1 - y0).max(0.0) }
    }

    /// Right edge.
    pub fn right(&self) -> f32 {
        self.x + self.w
    }

    /// Bottom edge.
    pub fn bottom(&self) -> f32 {
        self.y + self.h
    }

    /// Centre.
    pub fn center(&self) -> Point {
        Point { x: self.x + self.w / 2.0, y: self.y + self.h / 2.0 }
    }

    /// Area in square pixels.
    pub fn area(&self) -> f32 {
        self.w * self.h
    }

    /// The overlap with `other`; has no area when they are apart.
    pub fn intersect(&self, other: &Rect) -> Rect {
        Rect::from_corners(
            self.x.max(other.x),
            self.y.max(other.y),
            self.right().min(other.right()),
            self.bottom().min(other.bottom()),
        )
    }

    /// Intersection over union, 0..=1; 0 when both are empty.
    pub fn iou(&self, other: &Rect) -> f32 {
        let overlap = self.intersect(other).area();
        let union = self.area() + other.area() - overlap;
        if union > 0.0 { overlap / union } else { 0.0 }
    }

    /// Overlap over the smaller of the two areas, 0..=1 (MTCNN's "min" mode of NMS).
    pub fn overlap_min(&self, other: &Rect) -> f32 {
        let least = self.area().min(other.area());
        if least > 0.0 { self.intersect(other).area() / least } else { 0.0 }
    }

    /// The square with the same centre whose side is the longer side times `factor`.
    pub fn square(&self, factor: f32) -> Rect {
        let side = self.w.max(self.h) * factor;
        let c = self.center();
        Rect { x: c.x - side / 2.0, y: c.y - side / 2.0, w: side, h: side }
    }

    /// The point `t` of the way from this rectangle to `other`, edge by edge; `t` in 0..=1.
    pub fn lerp(&self, other: &Rect, t: f32) -> Rect {
        let mix = |a: f32, b: f32| a + (b - a) * t;
        Rect {
            x: mix(self.x, other.x),
            y: mix(self.y, other.y),
            w: mix(self.w, other.w),
            h: mix(self.h, other.h),
        }
    }

    /// True when every number is finite.
    pub fn is_finite(&self) -> bool {
        [self.x, self.y, self.w, self.h].iter().all(|v| v.is_finite())
    }
}

/// One face in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// The face's box.
    pub bbox: Rect,
    /// Left eye, right eye, nose, left and right mouth corner, as seen in the picture.
    pub landmarks: [Point; 5],
    /// The detector's probability that this is a face, 0..=1.
    pub confidence: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_of_known_rectangles() {
        let a = Rect { x: 0.0, y: 0.0, w: 10.0, h: 10.0 };
        let b = Rect { x: 5.0, y: 0.0, w: 10.0, h: 10.0 };
        assert!((a.iou(&b) - 50.0 / 150.0).abs() < 1e-6);
        assert!((a.overlap_min(&b) - 0.5).abs() < 1e-6);
        assert_eq!(a.iou(&Rect { x: 20.0, y: 0.0, w: 1.0, h: 1.0 }), 0.0);
        assert_eq!(Rect::default().iou(&Rect::default()), 0.0);
    }

    #[test]
    fn square_keeps_the_centre() {
        let r = Rect { x: 10.0, y: 20.0, w: 30.0, h: 50.0 }.square(1.3);
        assert_eq!((r.w, r.h), (65.0, 65.0));
        assert_eq!(r.center(), Point { x: 25.0, y: 45.0 });
    }
}
