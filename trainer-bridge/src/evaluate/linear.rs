//! Linear classifiers: the support vector machine of the embedding baseline, the logistic regression of the probes.

use tch::{Kind, Tensor};

/// What a linear classifier makes small, beside half of the squared length of its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// C * max(0, 1 - margin)^2: a support vector machine with squared hinge loss.
    SquaredHinge,
    /// C * ln(1 + e^-margin): logistic regression.
    Logistic,
}

/// Newton's steps before a fit counts as failed.
const MAX_STEPS: usize = 200;

/// Why there is no classifier.
#[derive(Debug, thiserror::Error)]
pub enum LinearError {
    /// The rows are of one class.
    #[error("a linear classifier takes both classes, found {n_real} reals and {n_fake} fakes")]
    OneClass {
        /// Reals found.
        n_real: usize,
        /// Fakes found.
        n_fake: usize,
    },
    /// Newton's method doesn't end.
    #[error("no optimum after {MAX_STEPS} steps")]
    NoOptimum,
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

/// Weights over standardised features.
#[derive(Debug)]
pub struct Linear {
    mean: Tensor,
    std: Tensor,
    /// [F + 1], the last one the bias.
    weights: Tensor,
}

impl Linear {
    /// Fits `features`, f32 [N, F], of which row i is fake if `is_fake[i]`, after shifting and scaling every feature to
    /// mean 0 and deviation 1.
    ///
    /// # Errors
    /// [`LinearError`].
    pub fn fit(features: &Tensor, is_fake: &[bool], loss: Loss, c: f64) -> Result<Self, LinearError> {
        let features = features.f_to_kind(Kind::Double)?;
        let mean = features.f_mean_dim(0, false, Kind::Double)?;
        let std = features.f_std_dim(0, false, false)?;
        // A feature that never changes says nothing: it becomes 0.
        let std = std.f_where_self(&std.f_gt(0.0)?, &Tensor::ones_like(&std))?;
        let standard = features.f_sub(&mean)?.f_div(&std)?;
        let weights = solve(&standard, is_fake, loss, c)?;
        Ok(Linear { mean, std, weights })
    }

    /// How far each row of `features`, f32 [N, F], is on the side of the fakes.
    ///
    /// # Errors
    /// [`LinearError::Torch`].
    pub fn decide(&self, features: &Tensor) -> Result<Vec<f64>, LinearError> {
        let features = features.f_to_kind(Kind::Double)?.f_sub(&self.mean)?.f_div(&self.std)?;
        Ok(Vec::try_from(with_one(&features)?.f_mv(&self.weights)?)?)
    }
}

/// The features and a 1 for the bias, f64 [N, F + 1].
fn with_one(features: &Tensor) -> Result<Tensor, tch::TchError> {
    let one = features.f_new_ones([features.size()[0], 1], (Kind::Double, features.device()))?;
    Tensor::f_cat(&[features, &one], 1)
}

/// The weights, bias last, of the least |w|^2 / 2 + sum of losses over rows of `x`, f64 [N, F], by Newton's method with
/// step halving. The bias counts as the weight of a feature that is 1 and so is kept small, too, as in LIBLINEAR (Fan et
/// al., 2008).
///
/// # Errors
/// [`LinearError`].
pub fn solve(x: &Tensor, is_fake: &[bool], loss: Loss, c: f64) -> Result<Tensor, LinearError> {
    let n_fake = is_fake.iter().filter(|is_fake| **is_fake).count();
    if n_fake == 0 || n_fake == is_fake.len() {
        return Err(LinearError::OneClass { n_real: is_fake.len() - n_fake, n_fake });
    }
    let x = with_one(x)?;
    let (n_rows, n_weights) = x.size2()?;
    if n_rows >= n_weights {
        return minimum(&x, is_fake, loss, c);
    }
    // With fewer rows than weights the optimum lies in the space that the rows span, where the length of the weights is
    // the same: x = r' q', w = q v.
    let (q, r) = Tensor::f_linalg_qr(&x.f_tr()?, "reduced")?;
    Ok(q.f_mv(&minimum(&r.f_tr()?, is_fake, loss, c)?)?)
}

/// [`solve`] for `x` with the bias's feature.
fn minimum(x: &Tensor, is_fake: &[bool], loss: Loss, c: f64) -> Result<Tensor, LinearError> {
    let signs: Vec<f64> = is_fake.iter().map(|&is_fake| if is_fake { 1.0 } else { -1.0 }).collect();
    let signs = Tensor::f_from_slice(&signs)?;
    let objective = |w: &Tensor| -> Result<f64, LinearError> {
        let margins = x.f_mv(w)?.f_mul(&signs)?;
        let losses = match loss {
            Loss::SquaredHinge => (margins.f_neg()?.f_add_scalar(1.0)?).f_relu()?.f_square()?,
            Loss::Logistic => margins.f_neg()?.f_softplus()?,
        };
        Ok(f64::try_from(w.f_dot(w)? / 2.0 + losses.f_sum(Kind::Double)? * c)?)
    };
    let mut w = x.f_new_zeros([x.size()[1]], (Kind::Double, x.device()))?;
    let mut value = objective(&w)?;
    for _ in 0..MAX_STEPS {
        let margins = x.f_mv(&w)?.f_mul(&signs)?;
        // First and second derivative of each loss by its margin.
        let (slope, curve) = match loss {
            Loss::SquaredHinge => {
                let short = (margins.f_neg()?.f_add_scalar(1.0)?).f_relu()?;
                (&short * (-2.0 * c), short.f_gt(0.0)?.f_to_kind(Kind::Double)? * (2.0 * c))
            }
            Loss::Logistic => {
                let p = margins.f_neg()?.f_sigmoid()?;
                (&p * -c, &p * (1.0 - &p) * c)
            }
        };
        let gradient = x.f_tr()?.f_mv(&(slope * &signs))?.f_add(&w)?;
        let hessian = x.f_tr()?.f_matmul(&(x * curve.f_unsqueeze(1)?))?;
        let hessian = hessian.f_add(&Tensor::f_eye(x.size()[1], (Kind::Double, x.device()))?)?;
        // The Hessian is the identity and more: never singular.
        let step = gradient.f_unsqueeze(1)?.f_cholesky_solve(&hessian.f_linalg_cholesky(false)?, false)?;
        let step = step.f_squeeze_dim(1)?;
        let descent = f64::try_from(step.f_dot(&gradient)?)?;
        if descent <= 1e-18 * value.max(1.0) {
            return Ok(w);
        }
        let mut length = 1.0;
        let (next, next_value) = loop {
            let next = &w - &step * length;
            let next_value = objective(&next)?;
            if next_value <= value - 1e-4 * length * descent {
                break (next, next_value);
            }
            length /= 2.0;
            // The value's last digits hide what is left to gain.
            if length < 1e-6 {
                return Ok(w);
            }
        };
        (w, value) = (next, next_value);
    }
    Err(LinearError::NoOptimum)
}
