#include "cli/app.h"

int main(int argc, char** argv) {
  return quantfit::cli::run(argc, argv);
}
