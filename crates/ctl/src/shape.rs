//! `queue shape`: how old the mail for each domain is, as qshape shows it.

use clap::Args;
use postern_admin::api::{Shape, ShapeBy, ShapeRequest};

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::filter::{self, FilterOptions};
use crate::output::{self, Look};

/// Options of `shape`.
#[derive(Debug, Args)]
pub struct ShapeOptions {
    /// Domains of the senders instead of the recipients.
    #[arg(long)]
    by_sender: bool,
    /// The upper ends of the columns, each above the one before.
    #[arg(long, value_name = "DURATION", value_delimiter = ',', value_parser = filter::seconds,
        default_value = "5m,10m,20m,40m,80m,160m,320m,640m,1280m")]
    buckets: Vec<u64>,
    /// How many domains at most, those with the most messages.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    filter: FilterOptions,
}

/// Shows the shape of the queue.
///
/// # Errors
/// [`Failure`].
pub async fn shape(session: &mut Session, options: &ShapeOptions) -> Result<Exit, Failure> {
    let request = ShapeRequest {
        filter: options.filter.filter()?,
        by: if options.by_sender { ShapeBy::Sender } else { ShapeBy::Recipient },
        buckets: options.buckets.clone(),
        limit: Some(options.limit),
    };
    let shape: Shape = session.client()?.post("/v1/queue/shape", &request).await?;
    session.out.answer(&shape, shape_text)?;
    if shape.omitted > 0 && !session.out.json {
        session.note(&format!("{} more domains: see --limit", shape.omitted));
    }
    Ok(Exit::Done)
}

fn shape_text(shape: &Shape, look: Look) -> String {
    let ends: Vec<String> =
        shape.buckets.iter().map(|end| output::duration(std::time::Duration::from_secs(*end))).collect();
    let last = ends.last().map(|end| format!("{end}+")).unwrap_or_default();
    let header: Vec<&str> = ["DOMAIN", "TOTAL"]
        .into_iter()
        .chain(ends.iter().map(String::as_str))
        .chain([last.as_str()])
        .collect();
    let row = |key: &str, counts: &[usize]| {
        let total = counts.iter().sum::<usize>();
        let counts = counts.iter().map(ToString::to_string);
        [key.to_owned(), total.to_string()].into_iter().chain(counts).collect()
    };
    let rows = shape.rows.iter().map(|found| row(&found.key, &found.messages));
    output::table(&header, [row("TOTAL", &shape.total)].into_iter().chain(rows), look)
}

#[cfg(test)]
mod tests {
    use postern_admin::api::ShapeRow;

    use super::*;

    #[test]
    fn the_shape_is_a_matrix_of_domains_and_ages() {
        let rows = vec![
            ShapeRow { key: "adatum.test".to_owned(), messages: vec![1, 0, 12] },
            ShapeRow { key: "thephone-company.test".to_owned(), messages: vec![0, 2, 0] },
        ];
        let shape = Shape { buckets: vec![300, 4800], total: vec![1, 1, 12], rows, omitted: 0 };
        let expected = "\
DOMAIN                 TOTAL  5m  1h20m  1h20m+
TOTAL                  14     1   1      12
adatum.test            13     1   0      12
thephone-company.test  2      0   2      0
";
        assert_eq!(shape_text(&shape, Look::PLAIN), expected);
    }
}
