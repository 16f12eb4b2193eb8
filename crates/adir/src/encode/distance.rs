//! The spherical distance (Eq. 19), by which neighbours are ranked.

/// The angle between two vectors, `2 asin(|a/|a| - b/|b|| / 2)` (Eq. 19), in radians, 0 to pi.
///
/// Both are scaled to length one here, in f64, since stored vectors are rounded and f16 rounding moves a
/// length by some 1e-4. The chord, unlike the cosine, keeps its digits where the two nearly agree.
/// Vectors of different length are compared over the shorter one.
pub fn spherical_distance(a: &[f32], b: &[f32]) -> f64 {
    let (a_norm, b_norm) = (norm(a), norm(b));
    let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) / a_norm - f64::from(b) / b_norm).powi(2));
    2.0 * (squares.sum::<f64>().sqrt() / 2.0).min(1.0).asin()
}

/// Euclidean length, in f64.
pub(crate) fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;

    #[test]
    fn is_the_angle_whatever_the_lengths() {
        for angle in [0.0, 1e-6, 0.3, 1.0, PI / 2.0, 2.5, PI] {
            let (a, b) = ([3.0, 0.0, 0.0], [(0.5 * f64::cos(angle)) as f32, (0.5 * f64::sin(angle)) as f32, 0.0]);
            let found = spherical_distance(&a, &b);
            assert!((found - angle).abs() < 2e-7, "{found} for {angle}");
        }
    }

    #[test]
    fn agrees_with_the_cosine_and_is_symmetric() {
        let a: Vec<f32> = (0..40).map(|i| (i as f32 * 0.7).sin()).collect();
        let b: Vec<f32> = (0..40).map(|i| (i as f32 * 0.3).cos() + 0.2).collect();
        let dot: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        let by_cosine = (dot / norm(&a) / norm(&b)).acos();
        assert!((spherical_distance(&a, &b) - by_cosine).abs() < 1e-14);
        assert_eq!(spherical_distance(&a, &b), spherical_distance(&b, &a));
        assert_eq!(spherical_distance(&a, &a), 0.0);
    }
}
