//! Groups observations with similar neighbours, so that one adaptation serves a group.

use std::collections::BTreeMap;

use super::Neighbour;

/// Observations that share their neighbours.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Indices of the observations, ascending.
    pub members: Vec<usize>,
    /// Their neighbours: first those shared by most members, then those nearest to any member, then by id. The distance
    /// is the smallest to a member.
    pub neighbours: Vec<Neighbour>,
}

/// Clusters observations by their nearest images (each list without repetition): group-average linkage, where the
/// likeness of two observations is the share of neighbours that they have in common (of the shorter list). Groups are
/// joined, the most alike first and ties by place, as long as the mean over all pairs between them is at least
/// `overlap`, 0 to 1. A group keeps at most as many neighbours as its members' longest list.
///
/// The groups are in the order of their first members. Time grows with the cube of the number of observations, memory
/// with its square: a thousand took 0.2 s on one AVX-512 core.
pub fn group_by_neighbours(found: &[Vec<Neighbour>], overlap: f64) -> Vec<Group> {
    let ids: Vec<Vec<usize>> = found.iter().map(|list| sorted(list.iter().map(|n| n.id))).collect();
    let mut likeness: Vec<Vec<f64>> = ids.iter().map(|a| ids.iter().map(|b| in_common(a, b)).collect()).collect();
    let mut groups: Vec<Vec<usize>> = (0..found.len()).map(|i| vec![i]).collect();
    while let Some((i, j)) = most_alike(&likeness, overlap) {
        // The mean over all pairs of a joined group is that of its parts, weighed by their sizes.
        let (of_i, of_j) = (groups[i].len() as f64, groups[j].len() as f64);
        let joined = |a: f64, b: f64| (of_i * a + of_j * b) / (of_i + of_j);
        let from_j = likeness.remove(j);
        for (a, b) in likeness[i].iter_mut().zip(&from_j) {
            *a = joined(*a, *b);
        }
        for row in &mut likeness {
            row[i] = joined(row[i], row[j]);
            row.remove(j);
        }
        let members = groups.remove(j);
        groups[i].extend(members);
    }
    groups.into_iter().map(|members| group_of(sorted(members.into_iter()), found)).collect()
}

/// The two groups (the later one second) with the highest likeness, if it is at least `overlap`.
fn most_alike(likeness: &[Vec<f64>], overlap: f64) -> Option<(usize, usize)> {
    let pairs = likeness.iter().enumerate().flat_map(|(i, row)| (i + 1..row.len()).map(move |j| (row[j], i, j)));
    let best = pairs.reduce(|best, pair| if pair.0 > best.0 { pair } else { best });
    best.filter(|&(value, ..)| value >= overlap).map(|(_, i, j)| (i, j))
}

fn sorted(ids: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut ids: Vec<usize> = ids.collect();
    ids.sort_unstable();
    ids
}

/// The share of ids that two sorted lists have in common.
fn in_common(a: &[usize], b: &[usize]) -> f64 {
    let common = a.iter().filter(|id| b.binary_search(id).is_ok()).count();
    common as f64 / a.len().min(b.len()).max(1) as f64
}

fn group_of(members: Vec<usize>, found: &[Vec<Neighbour>]) -> Group {
    let mut votes: BTreeMap<usize, (usize, f64)> = BTreeMap::new();
    for neighbour in members.iter().flat_map(|&m| &found[m]) {
        let (count, distance) = votes.entry(neighbour.id).or_insert((0, f64::INFINITY));
        *count += 1;
        *distance = distance.min(neighbour.distance);
    }
    let mut all: Vec<_> = votes.into_iter().collect();
    all.sort_by(|(_, a), (_, b)| b.0.cmp(&a.0).then(a.1.total_cmp(&b.1)));
    let longest = members.iter().map(|&m| found[m].len()).max().unwrap_or(0);
    let neighbours = all.into_iter().take(longest).map(|(id, (_, distance))| Neighbour { id, distance }).collect();
    Group { members, neighbours }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Noise, Stream};

    /// Neighbours at growing distances.
    fn list(ids: &[usize]) -> Vec<Neighbour> {
        ids.iter().enumerate().map(|(rank, &id)| Neighbour { id, distance: 0.1 * (rank + 1) as f64 }).collect()
    }

    fn members(groups: &[Group]) -> Vec<Vec<usize>> {
        groups.iter().map(|g| g.members.clone()).collect()
    }

    #[test]
    fn what_shares_enough_is_joined_and_keeps_what_most_have() {
        let found = [list(&[1, 2, 3, 4]), list(&[9, 8, 7, 6]), list(&[2, 1, 4, 5]), list(&[9, 1, 7, 5])];
        let groups = group_by_neighbours(&found, 0.5);
        assert_eq!(members(&groups), [vec![0, 2], vec![1, 3]]);
        // 1, 2 and 4 are in both lists; 3 (third place) is nearer than 5 (fourth).
        let ids: Vec<usize> = groups[0].neighbours.iter().map(|n| n.id).collect();
        assert_eq!(ids, [1, 2, 4, 3]);
        assert_eq!(groups[0].neighbours[0].distance, 0.1);
        assert_eq!(members(&group_by_neighbours(&found, 0.8)), [vec![0], vec![1], vec![2], vec![3]]);
        assert_eq!(members(&group_by_neighbours(&found, 0.0)), [vec![0, 1, 2, 3]]);
        assert_eq!(group_by_neighbours(&found[..1], 0.5)[0].neighbours, found[0]);
        assert!(group_by_neighbours(&[], 0.5).is_empty());
    }

    /// SciPy joins the same, cut where the mean distance exceeds 1 - overlap.
    // from scipy.cluster.hierarchy import average, fcluster
    // S = [[1,.5,.4,0,.1],[.5,1,.2,0,.3],[.4,.2,1,.1,0],[0,0,.1,1,.6],[.1,.3,0,.6,1]]
    // d = [1 - S[i][j] for i in range(5) for j in range(i + 1, 5)]
    // [fcluster(average(d), 1 - s + 1e-9, 'distance') for s in (.55, .45, .29, .05)]
    // [2 3 4 1 1], [2 2 3 1 1], [2 2 2 1 1], [1 1 1 1 1]
    #[test]
    fn groups_are_those_of_average_linkage() {
        // Lists of ten with the numbers in common of S times ten.
        let common = [(0, 1, 5), (0, 2, 4), (0, 4, 1), (1, 2, 2), (1, 4, 3), (2, 3, 1), (3, 4, 6)];
        let mut lists = vec![Vec::new(); 5];
        let mut id = 0;
        for (a, b, count) in common {
            for _ in 0..count {
                lists[a].push(id);
                lists[b].push(id);
                id += 1;
            }
        }
        for list in &mut lists {
            assert!(list.len() <= 10);
            while list.len() < 10 {
                list.push(id);
                id += 1;
            }
        }
        let found: Vec<_> = lists.iter().map(|ids| list(ids)).collect();
        let at = |overlap: f64| members(&group_by_neighbours(&found, overlap));
        assert_eq!(at(0.55), [vec![0], vec![1], vec![2], vec![3, 4]]);
        assert_eq!(at(0.45), [vec![0, 1], vec![2], vec![3, 4]]);
        assert_eq!(at(0.29), [vec![0, 1, 2], vec![3, 4]]);
        assert_eq!(at(0.05), [vec![0, 1, 2, 3, 4]]);
    }

    /// Between the groups that are left, no pair has a mean likeness of `overlap`, counted anew.
    #[test]
    fn groups_left_apart_share_less() {
        let noise = Noise::new(4, Stream::Evaluation);
        let found: Vec<_> = (0..40u32)
            .map(|i| {
                let drawn = sorted((0..12).map(|k| noise.below(i, k, 30)));
                list(&drawn.into_iter().fold(Vec::new(), |mut all, id| {
                    if all.last() != Some(&id) {
                        all.push(id);
                    }
                    all
                }))
            })
            .collect();
        let groups = group_by_neighbours(&found, 0.4);
        let likeness = |a: usize, b: usize| {
            let ids = |m: usize| sorted(found[m].iter().map(|n| n.id));
            in_common(&ids(a), &ids(b))
        };
        let mean = |a: &Group, b: &Group| {
            let pairs = a.members.iter().flat_map(|&i| b.members.iter().map(move |&j| likeness(i, j)));
            pairs.sum::<f64>() / (a.members.len() * b.members.len()) as f64
        };
        assert!(groups.len() > 2 && groups.len() < 40, "{}", groups.len());
        for (i, a) in groups.iter().enumerate() {
            for b in &groups[i + 1..] {
                assert!(mean(a, b) < 0.4 + 1e-9, "{:?} {:?}", a.members, b.members);
            }
        }
        assert_eq!(sorted(groups.iter().flat_map(|g| g.members.clone())), (0..40).collect::<Vec<_>>());
    }
}
