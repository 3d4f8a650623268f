//! Compares a number with bounds, and with its value before the deploy.
//!
//! Invariant: it fails closed. NaN and infinity are out of every bound, and a baseline without a number
//! for the probe is a failure.

use crate::observation::Before;
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub max_rise: Option<f64>,
    pub max_factor: Option<f64>,
    pub min_factor: Option<f64>,
}

impl Bounds {
    pub fn parse(options: &mut ProbeOptions) -> Result<Bounds, Failure> {
        let bounds = Bounds {
            min: options.take("min")?,
            min_factor: options.take("min_factor")?,
            ..Bounds::parse_upper(options)?
        };
        if bounds == Bounds::default() {
            let any = "min, max, max_rise, max_factor or min_factor";
            return Err(options.refuse(format!("without {any} every value would do")));
        }
        if let (Some(min), Some(max)) = (bounds.min, bounds.max) {
            if min > max {
                return Err(options.bad("min", format!("{min} is above max ({max})")));
            }
        }
        check_factor(options, "min_factor", bounds.min_factor)?;
        Ok(bounds)
    }

    /// Parses the optional upper bounds of a value that is bad when it grows (time, the use of a disk).
    pub fn parse_upper(options: &mut ProbeOptions) -> Result<Bounds, Failure> {
        let bounds = Bounds {
            max: options.take("max")?,
            max_rise: options.take("max_rise")?,
            max_factor: options.take("max_factor")?,
            ..Bounds::default()
        };
        check_factor(options, "max_factor", bounds.max_factor)?;
        Ok(bounds)
    }

    pub fn needs_baseline(&self) -> bool {
        self.max_rise.is_some() || self.max_factor.is_some() || self.min_factor.is_some()
    }

    /// Checks a value. `before` is `None` without a baseline: then only `min` and `max` are checked.
    pub fn hold(&self, value: f64, before: Option<&Before>) -> Result<(), String> {
        if !value.is_finite() {
            return Err(format!("the value is {value}, which is not a finite number"));
        }
        if let Some(min) = self.min.filter(|min| value < *min) {
            return Err(format!("{value} is below {min}"));
        }
        if let Some(max) = self.max.filter(|max| value > *max) {
            return Err(format!("{value} is above {max}"));
        }
        let Some(before) = before.filter(|_| self.needs_baseline()) else { return Ok(()) };
        let Some(was) = before.value else {
            return Err("the baseline has no value of this probe to compare with".to_owned());
        };
        if let Some(rise) = self.max_rise.filter(|rise| value - was > *rise) {
            return Err(format!("{value} is more than {rise} above the {was} of the baseline"));
        }
        // With a negative baseline, a factor above 1 would tighten the bound.
        if (self.max_factor.is_some() || self.min_factor.is_some()) && was < 0.0 {
            return Err(format!(
                "{was} in the baseline is negative: a factor needs a baseline of 0 or more"
            ));
        }
        if let Some(factor) = self.max_factor.filter(|factor| value > was * factor) {
            return Err(format!("{value} is more than {factor} times the {was} of the baseline"));
        }
        if let Some(factor) = self.min_factor.filter(|factor| value < was * factor) {
            return Err(format!("{value} is less than {factor} times the {was} of the baseline"));
        }
        Ok(())
    }
}

fn check_factor(options: &ProbeOptions, key: &str, factor: Option<f64>) -> Result<(), Failure> {
    match factor {
        Some(factor) if factor <= 0.0 => Err(options.bad(key, "expected a number above 0")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn before(value: Option<f64>) -> Before {
        Before { value, ..Before::default() }
    }

    #[test]
    fn bounds_hold_at_their_edges() {
        let bounds = Bounds { min: Some(1.0), max: Some(2.0), ..Bounds::default() };
        for good in [1.0, 1.5, 2.0] {
            assert_eq!(bounds.hold(good, None), Ok(()));
        }
        assert_eq!(bounds.hold(0.5, None).unwrap_err(), "0.5 is below 1");
        assert_eq!(bounds.hold(2.5, None).unwrap_err(), "2.5 is above 2");
    }

    #[test]
    fn infinity_and_nan_fail() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Bounds { max: Some(1e308), ..Bounds::default() }.hold(value, None).is_err());
            assert!(Bounds { min: Some(-1e308), ..Bounds::default() }.hold(value, None).is_err());
            assert!(Bounds { max_rise: Some(1.0), ..Bounds::default() }.hold(value, None).is_err());
        }
    }

    #[test]
    fn values_are_compared_with_the_baseline() {
        let bounds = Bounds {
            max_rise: Some(0.5),
            max_factor: Some(2.0),
            min_factor: Some(0.5),
            ..Bounds::default()
        };
        assert_eq!(bounds.hold(9.0, None), Ok(()));
        assert_eq!(bounds.hold(1.5, Some(&before(Some(1.0)))), Ok(()));
        assert!(
            bounds.hold(1.6, Some(&before(Some(1.0)))).unwrap_err().contains("0.5 above the 1")
        );
        assert!(
            bounds.hold(0.3, Some(&before(Some(0.1)))).unwrap_err().contains("2 times the 0.1")
        );
        assert!(
            bounds.hold(0.4, Some(&before(Some(1.0)))).unwrap_err().contains("0.5 times the 1")
        );
        assert!(bounds.hold(1.0, Some(&before(None))).unwrap_err().contains("has no value"));
        assert!(bounds.hold(-1.0, Some(&before(Some(-1.0)))).unwrap_err().contains("negative"));
    }

    #[test]
    fn upper_bounds_are_optional_and_factors_positive() {
        let given = |value: serde_json::Value| {
            ProbeOptions::new("d", "disk", value.as_object().cloned().unwrap_or_default())
        };
        assert_eq!(Bounds::parse_upper(&mut given(json!({}))).unwrap(), Bounds::default());
        let mut both = given(json!({"max_rise": 0.1, "min": 0.5}));
        assert_eq!(Bounds::parse_upper(&mut both).unwrap().max_rise, Some(0.1));
        assert!(both.finish().unwrap_err().msg.contains("the option min is not for kind disk"));
        for key in ["max_factor", "min_factor"] {
            let msg = Bounds::parse(&mut given(json!({ key: 0 }))).unwrap_err().msg;
            assert!(msg.contains("above 0"), "{msg}");
        }
    }
}
