//! Exact search against the plain f64 loop, whatever the precision, the number of threads and the ties.

use std::path::Path;
use std::sync::Arc;

use adir::encode::{Embedding, EncoderId, spherical_distance};
use adir::retrieve::{Exclude, Index, Neighbour, Precision};
use rayon::prelude::*;

fn encoder(dimension: usize) -> Arc<EncoderId> {
    let (weights, preprocessing) = ("00".repeat(32), "11".repeat(8));
    Arc::new(EncoderId { name: "test".into(), weights, preprocessing, dimension })
}

/// Values in [-1, 1] from a small integer recurrence.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(n)
    .collect()
}

fn index(precision: Precision, dimension: usize, features: &[f32]) -> Index {
    let mut rows = features.chunks(dimension).enumerate().map(|(i, row)| (format!("{i:06}.png"), row.to_vec()));
    Index::from_features(encoder(dimension), precision, Path::new("archive"), &mut rows).unwrap()
}

/// The definition: every distance in f64, sorted, ties by id.
fn plain(rows: &[Vec<f32>], query: &Embedding, k: usize, keep: impl Fn(f64) -> bool) -> Vec<Neighbour> {
    let mut all: Vec<Neighbour> = rows
        .iter()
        .enumerate()
        .map(|(id, row)| Neighbour { id, distance: spherical_distance(query.values(), row) })
        .filter(|neighbour| keep(neighbour.distance))
        .collect();
    all.sort_by(|a, b| a.distance.partial_cmp(&b.distance).unwrap().then(a.id.cmp(&b.id)));
    all.truncate(k);
    all
}

/// The stored rows, exactly.
fn stored(index: &Index) -> Vec<Vec<f32>> {
    (0..index.len()).map(|id| index.vector(id).unwrap()).collect()
}

#[test]
fn a_thousand_queries_give_what_the_plain_loop_gives() {
    let (n, d, k) = (10_000, 512, 20);
    let index = index(Precision::F32, d, &values(n * d, 1));
    // By cosine in f64, which orders as the distance does, so that the plain loop takes seconds.
    let rows: Vec<Vec<f64>> = stored(&index)
        .iter()
        .map(|row| {
            let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            row.iter().map(|&v| f64::from(v) / norm).collect()
        })
        .collect();
    values(1000 * d, 2).par_chunks(d).for_each(|query| {
        let query = Embedding::new(encoder(d), query.to_vec()).unwrap();
        let wide: Vec<f64> = query.values().iter().map(|&v| f64::from(v)).collect();
        let cosines = rows.iter().map(|row| row.iter().zip(&wide).map(|(a, b)| a * b).sum::<f64>());
        let mut all: Vec<(f64, usize)> = cosines.enumerate().map(|(id, cosine)| (-cosine, id)).collect();
        all.select_nth_unstable_by(k, |a, b| a.partial_cmp(b).unwrap());
        all.truncate(k);
        all.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let found = index.nearest(&query, k, &Exclude::default()).unwrap();
        let ids = |list: &mut dyn Iterator<Item = usize>| list.collect::<Vec<_>>();
        assert_eq!(ids(&mut found.iter().map(|n| n.id)), ids(&mut all.iter().map(|&(_, id)| id)));
    });
}

#[test]
fn both_precisions_and_every_number_of_threads_agree_with_the_plain_loop() {
    let d = 37;
    let features = values(5000 * d, 3);
    for precision in [Precision::F16, Precision::F32] {
        let index = index(precision, d, &features);
        let file = std::env::temp_dir().join(format!("adir-search-{}-{precision:?}.index", std::process::id()));
        index.save(&file).unwrap();
        let in_file = Index::open_within(&file, 0).unwrap();
        let rows = stored(&index);
        for (seed, k) in [(10, 1), (11, 7), (12, 300), (13, 5000), (14, 9999)] {
            let query = Embedding::new(encoder(d), values(d, seed)).unwrap();
            let expected = plain(&rows, &query, k, |_| true);
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let found = pool.install(|| index.nearest(&query, k, &Exclude::default()).unwrap());
                assert_eq!(found, expected, "{precision:?}, k = {k}, {threads} threads");
                let found = pool.install(|| in_file.nearest(&query, k, &Exclude::default()).unwrap());
                assert_eq!(found, expected, "in its file: {precision:?}, k = {k}, {threads} threads");
            }
        }
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn ties_are_ordered_by_id_and_near_ties_by_distance() {
    let d = 64;
    // Rows that differ by less than f32 cosines can tell, in falling order of nearness, then exact copies.
    let base = values(d, 5);
    let mut features = Vec::new();
    for i in 0..3000 {
        let mut row = base.clone();
        if i < 1500 {
            row[0] += (1500 - i) as f32 * 2e-7;
        }
        features.extend(row);
    }
    let index = index(Precision::F32, d, &features);
    let query = Embedding::new(encoder(d), base).unwrap();
    for k in [1, 10, 1500, 2000] {
        let found = index.nearest(&query, k, &Exclude::default()).unwrap();
        assert_eq!(found, plain(&stored(&index), &query, k, |_| true), "k = {k}");
    }
    let copies = index.nearest(&query, 1500, &Exclude::default()).unwrap();
    assert!(copies.windows(2).all(|pair| (pair[0].distance, pair[0].id) < (pair[1].distance, pair[1].id)));
}

#[test]
fn near_duplicates_are_left_out_at_the_exact_distance() {
    let d = 48;
    let index = index(Precision::F32, d, &values(2000 * d, 6));
    let query = index.embedding(17).unwrap();
    let all = index.nearest(&query, 40, &Exclude::default()).unwrap();
    assert_eq!(all[0].id, 17);
    // The bound at, just above and just below the distance of the 11th, which stays unless it is closer.
    let at = all[10].distance;
    for (closer_than, first) in [(at, 10), (at + 1e-9, 11), (at - 1e-9, 10), (1e-3, 1)] {
        let found = index.nearest(&query, 5, &Exclude { closer_than, content: None }).unwrap();
        assert_eq!(found, all[first..first + 5], "{closer_than}");
        assert_eq!(found, plain(&stored(&index), &query, 5, |distance| distance >= closer_than));
    }
}

#[test]
fn a_query_of_another_encoder_is_refused() {
    let index = index(Precision::F16, 8, &values(80, 7));
    let other = Arc::new(EncoderId { name: "other".into(), ..(*encoder(8)).clone() });
    let query = Embedding::new(other, values(8, 8)).unwrap();
    let message = index.nearest(&query, 3, &Exclude::default()).unwrap_err().to_string();
    assert!(message.contains("test") && message.contains("other"), "{message}");
    let query = Embedding::new(encoder(8), values(8, 8)).unwrap();
    assert!(index.nearest(&query, 0, &Exclude::default()).unwrap().is_empty());
}
