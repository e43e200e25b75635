# LightCRL, in a folder with train.csv and dev.csv: with_lightcrl.sh MODELS
lightcrl init . --models "$1" --output mine.toml --yes
lightcrl run mine.toml
