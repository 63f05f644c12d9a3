//! Prints the feature table of the README.

use rookery_features::feature::{TABLE_BEGIN, TABLE_END, readme_table};

fn main() {
    print!(
        "{TABLE_BEGIN}\n{}{TABLE_END}\n",
        readme_table(rookery_features::ALL)
    );
}
