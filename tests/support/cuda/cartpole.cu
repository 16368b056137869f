// CartPole-v1, operation by operation as in operant_gpu/envs/cartpole.py.
__device__ State reset(Rng rng, Params params) {
    return State{uniform(rng, 0, -0.05f, 0.05f), uniform(rng, 1, -0.05f, 0.05f), uniform(rng, 2, -0.05f, 0.05f),
                 uniform(rng, 3, -0.05f, 0.05f)};
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    // Constants in double precision first, as Python has them.
    constexpr double total_mass = (double)Params::masscart + Params::masspole;
    constexpr float push = Params::force_mag / total_mass, pole_share = Params::masspole / total_mass;
    constexpr float moment = Params::masspole / total_mass * Params::length, four_thirds = 4.0 / 3.0;
    const float x_dot = state.x_dot, theta_dot = state.theta_dot;
    const float sine = sinf(state.theta), cosine = cosf(state.theta);

    const float temp = (action == 1 ? push : -push) + moment * theta_dot * theta_dot * sine;
    const float theta_acc =
        (params.gravity * sine - cosine * temp) / (params.length * (four_thirds - pole_share * cosine * cosine));
    state.x += params.tau * x_dot;
    state.x_dot += params.tau * (temp - moment * theta_acc * cosine);
    state.theta += params.tau * theta_dot;
    state.theta_dot += params.tau * theta_acc;

    const bool terminated =
        fabsf(state.x) > params.x_threshold || fabsf(state.theta) > params.theta_threshold_radians;
    return Outcome{params.sutton_barto_reward ? (terminated ? -1.0f : 0.0f) : 1.0f, terminated};
}

__device__ void observe(const State& state, Params params, Observation obs) {
    obs[0] = state.x;
    obs[1] = state.x_dot;
    obs[2] = state.theta;
    obs[3] = state.theta_dot;
}
