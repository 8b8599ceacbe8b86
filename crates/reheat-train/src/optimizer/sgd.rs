//! What transformers' `optim_args` says of stochastic gradient descent.

use std::str::FromStr;

/// Settings of `torch.optim.SGD` beside learning rate and weight decay.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SgdArgs {
    /// Share of the earlier direction that is kept.
    pub momentum: Option<f64>,
    /// Share of the gradient that the momentum leaves out, but for the first.
    pub dampening: f64,
    /// Look ahead along the momentum.
    pub nesterov: bool,
}

impl FromStr for SgdArgs {
    type Err = String;

    /// Reads `momentum=0.9, nesterov=true`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut args = Self::default();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("expected key=value, found `{pair}`"))?;
            let (key, value) = (key.trim(), value.trim());
            let share = || match value.parse() {
                Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
                _ => Err(format!("{key} is `{value}`, expected 0 or more and below 1")),
            };
            match key {
                "momentum" => args.momentum = Some(share()?),
                "dampening" => args.dampening = share()?,
                "nesterov" => args.nesterov = matches!(value.to_lowercase().as_str(), "true" | "1" | "yes"),
                "weight_decay" => return Err("set `weight_decay` instead".into()),
                _ => return Err(format!("`{key}` is unknown, expected momentum, dampening or nesterov")),
            }
        }
        if args.nesterov && (args.momentum.unwrap_or(0.0) == 0.0 || args.dampening != 0.0) {
            return Err("nesterov needs a momentum above 0 and no dampening".into());
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_transformers_does() {
        let args = "momentum=0.9, nesterov=True".parse::<SgdArgs>().unwrap();
        assert_eq!(args, SgdArgs { momentum: Some(0.9), dampening: 0.0, nesterov: true });
        assert_eq!("".parse(), Ok(SgdArgs::default()));
        for (text, fault) in [
            ("momentum", "expected key=value, found `momentum`"),
            ("momentum=2", "momentum is `2`, expected 0 or more and below 1"),
            ("rank=4", "`rank` is unknown, expected momentum, dampening or nesterov"),
            ("nesterov=true", "nesterov needs a momentum above 0 and no dampening"),
            ("weight_decay=0.1", "set `weight_decay` instead"),
        ] {
            assert_eq!(text.parse::<SgdArgs>(), Err(fault.to_owned()));
        }
    }
}
