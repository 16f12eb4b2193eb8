//! The tiles of a convolution, those that the lower and the right border cut apart from the whole ones: of a side with fewer
//! than four results fewer points are needed.

use super::GROUP;
use super::transform::OUT;
use crate::tile::ROWS;

/// Share of the products, in percent, that cut tiles must save to be worth groups of their own, which read all weights again.
const LEAST_SAVING: usize = 5;

/// Tiles of a batch of images of which the same is inside the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    /// Rows and columns of tiles in one image.
    pub rows: usize,
    pub columns: usize,
    /// The first result pixel.
    top: usize,
    left: usize,
    /// Rows and columns of results in each tile: four, or fewer in tiles that are cut.
    pub results: [usize; 2],
}

/// Tiles of a region that are computed together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub region: Region,
    /// The first tile, of those of the region in all images.
    pub first: usize,
    pub count: usize,
    /// Tiles of all groups before.
    pub before: usize,
}

impl Region {
    /// The groups of all tiles of a batch of results of this size.
    pub fn groups(batch: usize, height: usize, width: usize) -> Vec<Group> {
        let mut before = 0;
        let mut groups = Vec::new();
        for region in Region::all(height, width) {
            let tiles = batch * region.tiles();
            for first in (0..tiles).step_by(GROUP) {
                let count = GROUP.min(tiles - first);
                groups.push(Group { region, first, count, before });
                before += count;
            }
        }
        groups
    }

    /// A result of this size by whole tiles, the last of which reach beyond it.
    pub fn whole(height: usize, width: usize) -> Region {
        Region { rows: height.div_ceil(OUT), columns: width.div_ceil(OUT), top: 0, left: 0, results: [OUT; 2] }
    }

    /// Tiles of one image.
    pub fn tiles(&self) -> usize {
        self.rows * self.columns
    }

    /// The regions of a result of this size: a single one where cut tiles are too few to be worth products of their own.
    fn all(height: usize, width: usize) -> Vec<Region> {
        let parts = |side: usize| [(0, side / OUT, OUT), (side / OUT * OUT, 1, side % OUT)];
        let apart = parts(height).into_iter().flat_map(|(top, rows, high)| {
            parts(width).map(|(left, columns, wide)| Region { rows, columns, top, left, results: [high, wide] })
        });
        let apart: Vec<_> = apart.filter(|region| region.tiles() > 0 && !region.results.contains(&0)).collect();
        let together = vec![Region::whole(height, width)];
        // For one image, so that its result does not depend on the others of the batch.
        let rows_of_products = |regions: &[Region]| -> usize { regions.iter().map(Region::rows_of_products).sum() };
        if 100 * rows_of_products(&apart) <= (100 - LEAST_SAVING) * rows_of_products(&together) {
            apart
        } else {
            together
        }
    }

    fn rows_of_products(&self) -> usize {
        let points: usize = self.results.iter().map(|results| results + 2).product();
        self.tiles().next_multiple_of(ROWS) * points
    }

    /// Whether its tiles have four by four results.
    pub fn is_whole(&self) -> bool {
        self.results == [OUT; 2]
    }

    /// Image, and row and column of the first result pixel, of a tile of the region.
    pub fn origin(&self, tile: usize) -> (usize, usize, usize) {
        let (image, rest) = (tile / self.tiles(), tile % self.tiles());
        (image, self.top + rest / self.columns * OUT, self.left + rest % self.columns * OUT)
    }
}
