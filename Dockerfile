# The container that runs drtool unattended. Two stages: the wheel is built in the first and installed in the second.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY .ci/lock/build.txt ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY drtool ./drtool
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
# The server's programs are for restores and their checks. Debian must not start a cluster of its own.
RUN mkdir -p /etc/postgresql-common/createcluster.d \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/drtool.conf \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates postgresql-15 redis-server redis-tools tini tzdata util-linux \
    && rm -rf /var/lib/apt/lists/*
# What is locked, each file with its hash; then drtool itself, built above.
COPY .ci/lock/image.txt /usr/src/image.txt
RUN pip install --no-cache-dir --no-deps --require-hashes -r /usr/src/image.txt
COPY --from=build /wheels /usr/src/wheels
RUN pip install --no-cache-dir --no-deps --no-index /usr/src/wheels/drtool-*.whl
RUN useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/drtool drtool \
    && install -d -o drtool -g drtool -m 0700 /var/lib/drtool/restore
USER drtool
WORKDIR /var/lib/drtool
# Named, and so trusted, whoever owns what is mounted there on the host.
ENV DRTOOL_POLICY=/var/lib/drtool/policies
# Policies are mounted here; secrets come by reference, from the environment or mounted files.
VOLUME ["/var/lib/drtool/restore"]
STOPSIGNAL SIGTERM
# tini reaps what a killed job leaves behind, and passes SIGTERM on: the scheduler ends cleanly within 45 s.
ENTRYPOINT ["tini", "--", "drtool"]
CMD ["schedule", "run"]
