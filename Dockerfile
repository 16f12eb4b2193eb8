# The program in an image: docker build -t adir .
#
#     docker run --rm -v "$PWD":/data -u "$(id -u):$(id -g)" adir restore y.png -o x.png --task sr4
#
# /data is the working folder. /cache holds adapters, indexes and the states of interrupted runs: mount a folder there to keep
# them. Besides the two images, only crates are fetched. Completions and manual pages lie where their programs (bash-completion,
# zsh, fish, man-db) look for them; these are not part of the image.
ARG DEBIAN=bookworm

FROM rust:1.95-${DEBIAN} AS build
WORKDIR /src
COPY . .
# All of the workspace, so that the framework has the features that are tested.
RUN cargo build --release --locked --workspace --bins && strip target/release/adir
RUN install -D -t /root/image/usr/local/bin target/release/adir \
    && cd /root/image/usr && mkdir -p share/bash-completion/completions share/zsh/vendor-completions \
        share/fish/vendor_completions.d share/man/man1 \
    && local/bin/adir completions bash > share/bash-completion/completions/adir \
    && local/bin/adir completions zsh > share/zsh/vendor-completions/_adir \
    && local/bin/adir completions fish > share/fish/vendor_completions.d/adir.fish \
    && local/bin/adir man -o share/man/man1 \
    && install -D -m 644 -t share/doc/adir /src/LICENSE-APACHE /src/LICENSE-MIT \
    && install -D -m 644 -t share/doc/adir/weights /src/crates/adir-assets/assets/*.md \
    && python3 /src/tools/third_party_licences.py > share/doc/adir/third-party.txt

FROM debian:${DEBIAN}-slim
COPY --from=build /root/image /
RUN useradd --uid 1000 --create-home adir && install -d -m 1777 /cache /data
USER adir
ENV XDG_CACHE_HOME=/cache
WORKDIR /data
ENTRYPOINT ["adir"]
