//! The measurement of each node as one HTML page.

use std::fmt::Write as _;

use super::recipe::Recipe;
use super::sqnr::Row;

/// Bars end here, dB.
const MOST_DB: f64 = 60.0;

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>int8</title><style>\
body{font:14px system-ui;margin:2em;color:#222}table{border-collapse:collapse}\
td,th{padding:2px 8px;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
td:first-child,td:nth-child(2),th:first-child,th:nth-child(2){text-align:left}\
.bar{display:inline-block;height:9px;background:#4a7}.low{background:#c43}.float td{background:#ffd}\
td:nth-last-child(1),td:nth-last-child(2){text-align:left;min-width:13em}</style>";

/// The page: what was quantized, a note on it and how, then a line for each node in the order in which they run.
pub(super) fn html(title: &str, note: &str, recipe: &Recipe, rows: &[Row]) -> String {
    let mut page = String::from(HEAD);
    let (low_db, most) = (recipe.float_below_db, recipe.most_float_layers);
    let recipe = serde_json::to_string_pretty(recipe).unwrap_or_else(|_| unreachable!("plain numbers"));
    let n_float = rows.iter().filter(|row| row.numbers == "float").count();
    let _ = write!(
        page,
        "<h1>{title} in int8</h1><p>Signal to noise against the float network, on crops of their own, which nothing but the choice of layers in float and of training or not rests on. \
         \"Alone\": this node alone in int8; \"whole\": all of them. {note} \
         Layers that stay in float (those below {low_db} dB alone, at most {most}): {n_float}.</p>\
         <details><summary>Recipe</summary><pre>{recipe}</pre></details><table><tr><th>tensor<th>made by<th>numbers\
         <th>scale<th>zero<th>outside<th>weights, dB<th>alone, dB<th>whole, dB</tr>",
    );
    for row in rows {
        let scale = row.scale.map_or(String::new(), |scale| format!("{scale:.5}"));
        let zero = row.zero.map_or(String::new(), |zero| zero.to_string());
        let weights = row.weights_db.map_or(String::new(), |db| format!("{db:.1}"));
        let class = if row.numbers == "float" { " class=\"float\"" } else { "" };
        let _ = write!(
            page,
            "<tr{class}><td>{}<td>{}<td>{}<td>{scale}<td>{zero}<td>{:.3} %<td>{weights}{}{}</tr>",
            row.name,
            row.kind,
            row.numbers,
            100.0 * row.clipped,
            bar(row.own_db, low_db),
            bar(row.whole_db, low_db),
        );
    }
    page.push_str("</table></html>\n");
    page
}

fn bar(db: f64, low_db: f64) -> String {
    let width = db.clamp(0.0, MOST_DB) / MOST_DB * 9.0;
    let class = if db < low_db { "bar low" } else { "bar" };
    let text = if db > 2.0 * MOST_DB { "exact".into() } else { format!("{db:.1}") };
    format!("<td><span class=\"{class}\" style=\"width:{width:.2}em\"></span> {text}")
}
