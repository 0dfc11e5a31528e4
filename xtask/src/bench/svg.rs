//! Two curves as a picture.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 60.0;

/// `points` are x, first, second; x is drawn on a logarithmic scale.
pub fn curves(title: &str, names: [&str; 2], points: &[(f64, f64, f64)]) -> String {
    let top = points.iter().map(|p| p.1.max(p.2)).fold(1.0, f64::max);
    let last = points.iter().map(|p| p.0.log2()).fold(1.0, f64::max);
    let x = |value: f64| MARGIN + value.log2() / last * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - value / top * (HEIGHT - 2.0 * MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\">{title}</text>\n<text x=\"4\" y=\"{:.0}\">{top:.0}</text>\n",
        y(top)
    );
    for (n, (name, color)) in names.iter().zip(["#1f5fbf", "#bf5f1f"]).enumerate() {
        let of = |p: &(f64, f64, f64)| if n == 0 { p.1 } else { p.2 };
        let line: Vec<_> =
            points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(of(p)))).collect();
        let at = WIDTH - 2.0 * MARGIN;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "<polyline fill=\"none\" stroke=\"{color}\" points=\"{}\"/>\n\
             <text x=\"{at}\" y=\"{}\" fill=\"{color}\">{name}</text>",
            line.join(" "),
            24 + 16 * n
        );
    }
    for point in points {
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{}\">{}</text>",
            x(point.0),
            HEIGHT - 36.0,
            point.0
        );
    }
    text + "</svg>\n"
}
